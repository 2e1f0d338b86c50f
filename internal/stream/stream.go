// Package stream writes to streams that somebody else reads, or does not: a
// terminal after Ctrl-S, a pipe whose reader hangs, and a log on a full disk must
// hold up neither the work of a program nor its end.
package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// queueLimit is how much an Async keeps for a reader that is late, in bytes.
const queueLimit = 1 << 20

// Async passes on what is written to it in its own goroutine, so that Write
// neither waits nor fails. What finds the queue full, or cannot be written, is
// dropped and counted.
type Async struct {
	to   io.Writer
	tell func(dropped int)

	mu      sync.Mutex
	queue   [][]byte
	size    int // of the queue and of what is being written, in bytes
	dropped int
	broken  bool          // the last write failed
	done    chan struct{} // closed when the queue is empty; nil where nothing is to be written
	gaveUp  bool          // a Flush did, and nothing was written since
}

// NewAsync returns an Async that writes to a stream. tell is called once the
// reader is back, with how many writes were dropped; it may write to the Async.
func NewAsync(to io.Writer, tell func(dropped int)) *Async {
	return &Async{to: to, tell: tell}
}

// Unwrap is the stream itself, for questions about it.
func (a *Async) Unwrap() io.Writer { return a.to }

// Write implements io.Writer; it never fails.
func (a *Async) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size > 0 && a.size+len(p) > queueLimit {
		a.dropped++
		return len(p), nil
	}
	a.queue = append(a.queue, bytes.Clone(p))
	a.size += len(p)
	if a.done == nil {
		a.done = make(chan struct{})
		go a.pass()
	}
	return len(p), nil
}

// pass writes until nothing is left. It is the only goroutine that does.
func (a *Async) pass() {
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			dropped := a.dropped
			if dropped == 0 || a.broken {
				close(a.done)
				a.done = nil
				a.mu.Unlock()
				return
			}
			a.dropped = 0
			a.mu.Unlock()
			a.tell(dropped)
			continue
		}
		p := a.queue[0]
		a.queue = a.queue[1:]
		a.mu.Unlock()
		_, err := a.to.Write(p)
		a.mu.Lock()
		a.size -= len(p)
		a.broken, a.gaveUp = err != nil, false
		if a.broken {
			a.dropped++
		}
		a.mu.Unlock()
	}
}

// Flush waits until everything is written, and no longer than within; not at all
// where an earlier Flush has waited in vain and nothing was written since.
func (a *Async) Flush(within time.Duration) {
	a.mu.Lock()
	done := a.done
	if a.gaveUp {
		done = nil
	}
	a.mu.Unlock()
	if done == nil {
		return
	}
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		a.mu.Lock()
		a.gaveUp = a.done == done
		a.mu.Unlock()
	}
}

// ErrNotRead says that a program was to end while nobody read its output.
var ErrNotRead = errors.New("nobody reads the output")

// Until waits for the reader of a stream, as pipes are made for, until a context
// ends and some time more.
type Until struct {
	ctx   context.Context
	to    io.Writer
	grace time.Duration

	mu    sync.Mutex
	stuck bool
}

// NewUntil returns an Until that writes to a stream.
func NewUntil(ctx context.Context, to io.Writer, grace time.Duration) *Until {
	return &Until{ctx: ctx, to: to, grace: grace}
}

// Unwrap is the stream itself, for questions about it.
func (u *Until) Unwrap() io.Writer { return u.to }

type result struct {
	n   int
	err error
}

// Write implements io.Writer. Once it has said ErrNotRead it does nothing else.
func (u *Until) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stuck {
		return 0, ErrNotRead
	}
	written := make(chan result, 1)
	p = bytes.Clone(p) // the write may outlast this call
	go func() {
		n, err := u.to.Write(p)
		written <- result{n, err}
	}()
	select {
	case r := <-written:
		return r.n, r.err
	case <-u.ctx.Done():
	}
	late := time.NewTimer(u.grace)
	defer late.Stop()
	select {
	case r := <-written:
		return r.n, r.err
	case <-late.C:
		u.stuck = true
		return 0, ErrNotRead
	}
}
