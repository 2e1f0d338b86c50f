package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// opened opens the file of that path once more, as another process would.
func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func try(t *testing.T, f *os.File, kind Kind, want bool) {
	t.Helper()
	if got, err := Try(f, kind); err != nil || got != want {
		t.Errorf("locked: %t, %v; want %t", got, err, want)
	}
}

func TestTry_Kinds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := opened(t, path), opened(t, path)
	try(t, a, Shared, true)
	try(t, b, Shared, true)
	try(t, b, Exclusive, false)
	if err := Unlock(a); err != nil {
		t.Fatal(err)
	}
	try(t, b, Exclusive, true)
	try(t, a, Shared, false)
}

func TestLock_WaitsAndGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := opened(t, path), opened(t, path)
	try(t, a, Exclusive, true)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	got := make(chan error)
	go func() { got <- Lock(ctx, b, Exclusive) }()
	cancel(stop)
	if err := <-got; !errors.Is(err, stop) {
		t.Errorf("gave up with %v", err)
	}
	go func() { got <- Lock(t.Context(), b, Exclusive) }()
	if err := Release(a); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// From fork to exec a child shares every open file of its parent.
func TestRelease_WhileAChildIsStarted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := opened(t, path), opened(t, path)
	try(t, a, Exclusive, true)
	child, err := unix.Dup(int(a.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	if err := Release(a); err != nil {
		t.Fatal(err)
	}
	try(t, b, Exclusive, true)
}

func TestHolder_NamesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	try(t, opened(t, path), Exclusive, true)
	if who, err := Holder(path); err != nil || !strings.HasPrefix(who, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("%q, %v", who, err)
	}
}
