package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// startLimit is when a program that was started is taken to have failed.
const startLimit = 20 * time.Second

// process is a program that was started, and is stopped by stop.
type process struct {
	cmd *exec.Cmd
	// addr is where the deployer listens, and admin where its private side does.
	addr, admin string
	read        chan struct{}
}

// spawn starts a program with its standard error going to w.
func spawn(ctx context.Context, w io.Writer, name string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for us alone
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &process{cmd: cmd}, nil
}

// stop ends the program as an operator would, and waits for it.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	late := time.AfterFunc(p.cmd.WaitDelay, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	err := p.cmd.Wait()
	if p.read != nil {
		<-p.read
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil
	}
	return err
}

// deployer starts the deployer, and returns once its log says ready. onLine, if
// not nil, gets each later line of the log with the time when it came.
func (b *bench) deployer(ctx context.Context, verb, config, ready string, onLine func(at time.Time, line string)) (*process, error) {
	binary, err := b.program(ctx)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p, err := spawn(ctx, w, binary, verb, "--config", config)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	p.read = make(chan struct{})
	found := make(chan begun, 1)
	go func() {
		defer close(p.read)
		defer r.Close()
		follow(r, "msg="+ready, found, onLine)
	}()
	select {
	case f := <-found:
		if f.ready {
			p.addr, p.admin = f.addr, f.admin
			return p, nil
		}
		err = fmt.Errorf("%s ended before it was ready: %s", verb, f.line)
	case <-time.After(startLimit):
		err = fmt.Errorf("%s is not ready after %s", verb, startLimit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, p.stop())
}

// begun is what a program logged until it was ready, or ended: its last line, and
// the addresses that it listens on.
type begun struct {
	line, addr, admin string
	ready             bool
}

// follow reads a log to its end, and sends the line that contains ready.
func follow(r io.Reader, ready string, found chan<- begun, onLine func(at time.Time, line string)) {
	in := bufio.NewReader(r)
	waiting := true
	var sofar begun
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if waiting {
				found <- sofar
			}
			return
		}
		if waiting {
			sofar.line = line
			if _, rest, ok := strings.Cut(line, "msg=listening addr="); ok {
				sofar.addr, _, _ = strings.Cut(rest, " ")
			}
			if _, rest, ok := strings.Cut(line, "msg=\"admin pages\" addr="); ok {
				sofar.admin, _, _ = strings.Cut(rest, " ")
			}
		}
		switch {
		case waiting && strings.Contains(line, ready):
			waiting = false
			sofar.ready = true
			found <- sofar
			if onLine == nil {
				_, _ = io.Copy(io.Discard, in)
				return
			}
		case !waiting:
			onLine(time.Now(), line)
		}
	}
}
