// Package testkit owns what the tests of many packages need beside a database:
// to wait for something, to run git by hand, to write a program, to read what is being written.
package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// TB is what is needed of a testing.TB or a rapid.TB.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// patience is for machines that do much else at the time.
const patience = 60 * time.Second

// Wait looks again and again until done says true.
func Wait(t TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Git runs git in a directory, without anybody's configuration, and returns what
// it prints.
func Git(t TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Buffer is a bytes.Buffer that may be read while others write.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Program writes a file that can be run at once, and its directory. The kernel runs no file that somebody
// has open for writing (ETXTBSY), and a child that another goroutine forks meanwhile
// would have it open until its own exec (https://go.dev/issue/22315), so nobody forks
// meanwhile.
func Program(t TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	err := errors.Join(
		os.MkdirAll(filepath.Dir(path), 0o750),
		os.WriteFile(path, []byte(text), 0o755), //nolint:gosec // a program, which other users run as well
	)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// lastPort is the last that Address gave out.
var lastPort atomic.Int32

// Address is a host on loopback and a port that nobody else has, now or later: others
// listen on 127.0.0.1, where what was free a moment ago may be another's by now.
func Address() (host string, port int) {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff), 8000 + int(lastPort.Add(1))
}
