package process

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Leftovers goes on reading what is written by processes that outlive the program
// which started them, and drops it: a pipe that nobody reads would end them at
// their next line. The zero value is ready for use.
type Leftovers struct {
	mu      sync.Mutex
	pipes   map[*os.File]bool
	closed  bool
	reading sync.WaitGroup
}

// keep takes over a pipe.
func (l *Leftovers) keep(r *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = r.Close()
		return
	}
	if l.pipes == nil {
		l.pipes = map[*os.File]bool{}
	}
	l.pipes[r] = true
	_ = r.SetReadDeadline(time.Time{})
	l.reading.Go(func() {
		_, _ = io.Copy(io.Discard, r)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.pipes, r)
		_ = r.Close()
	})
}

// Close ends the reading.
func (l *Leftovers) Close() {
	l.mu.Lock()
	l.closed = true
	for r := range l.pipes {
		_ = r.SetReadDeadline(time.Now())
	}
	l.mu.Unlock()
	l.reading.Wait()
}

// leave is what becomes of a pipe that something else still has open when the
// program is gone.
func (p *pipe) leave(l *Leftovers) {
	if l == nil {
		_ = p.r.Close()
		return
	}
	who := ""
	if info, err := p.r.Stat(); err == nil {
		who = FindOpenFiles(os.Getpid()).By(info)
	}
	if who == "" {
		who = "a process that cannot be looked at"
	}
	newline := ""
	if p.last != '\n' && p.last != 0 {
		newline = "\n"
	}
	_, _ = fmt.Fprintf(p.to, "%s%s was left behind and still has this output open: what it writes from now on is dropped, "+
		"and it ends at its next line once the deployer stops; a program that should outlive its step belongs in a service\n", newline, who)
	l.keep(p.r)
}
