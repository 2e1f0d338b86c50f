package webhook

import (
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// How long a client may take to complete a connection that the kernel has
	// begun: one on the network, and one on this host, which a busy host delays.
	handshake      = 200 * time.Millisecond
	localHandshake = 20 * time.Millisecond
	// acceptWithin bounds the wait for what the kernel holds to be accepted.
	acceptWithin = time.Second
)

// stopAccepting closes a listener, but lets its Accept take what the kernel has
// connected already: a close would reset that. New connections are refused
// meanwhile, as if it were closed.
//
// A listener that shows no descriptor is shared with somebody who keeps it open,
// and what it holds with it: nothing is lost, and nobody may be refused.
func stopAccepting(l net.Listener) {
	if c, ok := l.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil && control(raw, refuseNew) == nil {
			pause := handshake
			if a, ok := l.Addr().(*net.TCPAddr); ok && a.IP.IsLoopback() {
				pause = localHandshake
			}
			time.Sleep(pause)
			for end := time.Now().Add(acceptWithin); backlog(raw) > 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
	}
	_ = l.Close() // nothing was written to it
}

// refuseNew binds a listener to a network device that there is none of, so that
// no new packet finds it. Connections that were begun have found it already.
func refuseNew(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, math.MaxInt32)
}

// backlog is how many connections wait to be accepted; 0 where that is not known.
func backlog(raw syscall.RawConn) uint32 {
	var waiting uint32
	_ = control(raw, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			waiting = info.Unacked // which it means of a listener
		}
		return err
	})
	return waiting
}

func control(raw syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
