package webhook

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// limitConnections returns l with at most n connections open at a time. Each open
// connection costs a goroutine and two buffers, so their number is a bound on memory.
func limitConnections(l net.Listener, n int) net.Listener {
	return &limitListener{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

type limitListener struct {
	net.Listener
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Accept waits for a free slot first, so that a connection that is one too many
// stays in the kernel's queue.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, passing(err)
	}
	return &limitConn{Conn: c, slots: l.slots}, nil
}

// passing marks what accept(2) may get over (no memory, a network that is down), so
// that net/http pauses and tries again, as it does by itself for few errors only.
func passing(err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok || errno == syscall.EBADF || errno == syscall.EINVAL || errno == syscall.ENOTSOCK {
		return err
	}
	return passingError{err}
}

type passingError struct{ error }

func (e passingError) Unwrap() error { return e.error }
func (e passingError) Timeout() bool { return false }

// Temporary is what net/http asks.
func (e passingError) Temporary() bool { return true }

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

// Close gives the slot back, once.
func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}

// CloseWrite keeps net/http able to end a connection without a reset that would
// overtake the answer.
func (c *limitConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}
