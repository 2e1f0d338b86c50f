package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// Standard error is a pipe that is full, as of a terminal after Ctrl-S.
func TestLog_ThatNobodyReadsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 1)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{slug: "web", repository: "ada/web", remote: r})
	fifo := filepath.Join(s.dir, "unread")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	for fill := make([]byte, 1<<20); err == nil; {
		err = rawWrite(pipe, fill)
		fill = fill[:max(1, len(fill)/2)]
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	full, err := os.OpenFile(fifo, os.O_WRONLY, 0) // one that blocks
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fifo, fifo+".pipe"); err != nil { // what reads the log finds none
		t.Fatal(err)
	}
	addr := s.fixPort()
	p := s.startWith("serve", s.config, nil, full)
	full.Close()
	await(t, "the daemon to listen", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	d := push("ada/web", "main", commits[0])
	s.github(addr).send(d)
	s.ends(d.id)
	s.live("web", commits[0])
	p.stop()
	s.accounted(d.id)
}

// rawWrite writes without waiting for room.
func rawWrite(f *os.File, b []byte) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var written error
	if err := conn.Control(func(fd uintptr) { _, written = syscall.Write(int(fd), b) }); err != nil {
		return err
	}
	return written
}

// fixPort configures an address, for a daemon whose log cannot tell the one that it
// was given.
func (s *site) fixPort() string {
	s.t.Helper()
	addr := noAddr()
	host, port, _ := net.SplitHostPort(addr)
	text := strings.Replace(s.settings(s.secret), "host = \"127.0.0.1\"\nport = 0", fmt.Sprintf("host = %q\nport = %s", host, port), 1)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return addr
}
