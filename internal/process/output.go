package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drainWait is how long output is still read when the program is gone and
	// a process that got away to its own session keeps the pipe open.
	drainWait = 500 * time.Millisecond
	// drainMax bounds what is then read of what is left in the pipe (64 KiB by
	// default, 1 MiB at most for an ordinary user).
	drainMax   = 1 << 20
	bufferSize = 32 << 10
)

// outputs owns the pipes between a program and its Writers.
type outputs struct {
	pipes []*pipe // one for both streams, or one each
}

type pipe struct {
	r, w *os.File
	to   io.Writer
	turn *sync.Mutex // of all the pipes of a program: their Writers may share what they write to
	wg   sync.WaitGroup
	last byte // that was copied
	open bool // something had it open when the copying ended
}

func newOutputs(stdout, stderr io.Writer) (*outputs, error) {
	if stdout == nil {
		stdout = io.Discard
	}
	targets := []io.Writer{stdout}
	if stderr != nil {
		targets = append(targets, stderr)
	}
	o, turn := &outputs{}, &sync.Mutex{}
	for _, to := range targets {
		r, w, err := os.Pipe()
		if err != nil {
			o.abort()
			return nil, fmt.Errorf("make a pipe for its output: %w", err)
		}
		o.pipes = append(o.pipes, &pipe{r: r, w: w, to: to, turn: turn})
	}
	return o, nil
}

func (o *outputs) stdout() *os.File { return o.pipes[0].w }
func (o *outputs) stderr() *os.File { return o.pipes[len(o.pipes)-1].w }

// abort closes everything; no program was started.
func (o *outputs) abort() {
	for _, p := range o.pipes {
		_ = p.r.Close()
		_ = p.w.Close()
	}
}

// started begins to copy. The program has its own copies of the write ends.
func (o *outputs) started() {
	for _, p := range o.pipes {
		_ = p.w.Close()
		p.wg.Go(p.copy)
	}
}

// drain returns when all that the program wrote has been copied. What something
// else still has open goes to left.
func (o *outputs) drain(left *Leftovers) {
	for _, p := range o.pipes {
		_ = p.r.SetReadDeadline(time.Now().Add(drainWait))
	}
	for _, p := range o.pipes {
		p.wg.Wait()
		if p.open {
			p.leave(left)
		} else {
			_ = p.r.Close()
		}
	}
}

func (p *pipe) copy() {
	buf := make([]byte, bufferSize)
	for {
		n, err := p.r.Read(buf)
		p.pass(buf[:n])
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.open = p.rest(buf)
			return
		default:
			return
		}
	}
}

func (p *pipe) pass(b []byte) {
	if len(b) > 0 {
		p.turn.Lock()
		_, _ = p.to.Write(b)
		p.turn.Unlock()
		p.last = b[len(b)-1]
	}
}

// rest copies what is in the pipe without waiting for more: the deadline may
// have passed while a slow Writer held us up. It says whether more may come.
func (p *pipe) rest(buf []byte) bool {
	conn, err := p.r.SyscallConn()
	if err != nil {
		return false
	}
	for total := 0; total < drainMax; {
		var n int
		var readErr error
		err := conn.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), buf) })
		if errors.Is(readErr, unix.EINTR) {
			continue
		}
		if err != nil || readErr != nil || n <= 0 {
			return errors.Is(readErr, unix.EAGAIN)
		}
		total += n
		p.pass(buf[:n])
	}
	return true
}
