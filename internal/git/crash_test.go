package git

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestStaleLocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", first))
	second := w.commit("second", map[string]string{"a": "2"})
	w.push("main")
	for _, lock := range []string{"index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/remotes/origin/main.lock", "modules/sub/index.lock"} {
		w.write(filepath.Join(w.repo.Dir(), ".git", lock), "")
	}
	w.write(filepath.Join(w.repo.Dir(), ".git", "modules", "sub", "objects", "x"), "")
	w.repo.remote = "file://" + w.bare // so that the configuration is written, too
	w.must(w.deploy("main", second))
	w.assertLive(second)
	if _, err := os.Stat(filepath.Join(w.repo.Dir(), ".git", "modules", "sub", "index.lock")); err == nil {
		t.Error("the lock of a submodule is still there")
	}

	held, err := os.Create(filepath.Join(w.repo.Dir(), ".git", "index.lock"))
	w.must(err)
	defer func() { _ = held.Close() }()
	if err := w.repo.Checkout(t.Context(), first, nil); err == nil || !strings.Contains(err.Error(), "is held by process "+fmt.Sprint(os.Getpid())) {
		t.Errorf("a lock that somebody holds: %v", err)
	}
	w.assertLive(second)
}

// TestInterruptedCheckoutLeavesNoStrays: B is killed when its files are there
// and its index is not; then C is deployed.
func TestInterruptedCheckoutLeavesNoStrays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.commit("a", map[string]string{"f": "a"})
	b := w.commit("b", map[string]string{"f": "b", "only-in-b": "b"})
	c := w.commit("c", map[string]string{"f": "c", "only-in-b": ""})
	w.push("main")
	w.must(w.deploy("main", a))
	w.write(filepath.Join(w.repo.Dir(), "only-in-b"), "b")
	w.write(filepath.Join(w.repo.Dir(), ".git", "index.lock"), "half")
	w.write(filepath.Join(w.repo.Dir(), ".git", targetName), b+"\n")
	w.must(w.deploy("main", c))
	w.assertLive(c)
	if stray := w.live("only-in-b"); stray != "" {
		t.Error("a file of the interrupted checkout is still there")
	}
}

// TestKilledAtAnyMoment kills the git of a first deploy with KILL, again and
// again, a little later each time; a deploy after that must succeed.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := map[string]string{}
	for i := range 200 {
		files[fmt.Sprintf("d%d/f%d", i%7, i)] = strings.Repeat(fmt.Sprint(i, " "), 500)
	}
	first := w.commit("first", files)
	w.push("main")
	kills := 0
	for round, delay := 0, time.Duration(0); round < 15; round++ {
		delay += time.Millisecond + delay/3
		dir := filepath.Join(t.TempDir(), "live")
		stopKilling := make(chan struct{})
		var killer sync.WaitGroup
		file := filepath.Join(t.TempDir(), "process")
		killed := false
		killer.Go(func() {
			select {
			case <-stopKilling:
				return
			case <-time.After(delay):
			}
			for !killed {
				select {
				case <-stopKilling:
					return
				case <-time.After(100 * time.Microsecond):
					killed = killProcessIn(file)
				}
			}
		})
		w.repo = Open(dir, w.bare, Options{ProcessFile: file})
		err := w.repo.EnsureClone(t.Context(), anyCommit, nil)
		if err == nil {
			err = w.repo.FetchCommit(t.Context(), "main", first, nil)
		}
		if err == nil {
			err = w.repo.Checkout(t.Context(), first, nil)
		}
		close(stopKilling)
		killer.Wait()
		if killed {
			kills++
		}
		w.must(w.deploy("main", first))
		w.assertLive(first)
		if err == nil && !killed && kills > 3 {
			break // it was faster than the kill: every earlier moment was tried
		}
	}
	if kills < 3 {
		t.Errorf("only %d kills: the test tests nothing", kills)
	}
}

// killProcessIn kills the group of the program that a process file names.
func killProcessIn(file string) bool {
	b, err := os.ReadFile(file)
	var program struct{ PID int }
	if err != nil || json.Unmarshal(b, &program) != nil || program.PID < 2 {
		return false
	}
	return unix.Kill(-program.PID, unix.SIGKILL) == nil
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	errWanted := errors.New("enough")
	w := newWorld(t)
	// A remote that never answers.
	stuck := filepath.Join(t.TempDir(), "ssh")
	testkit.Program(w.t, stuck, "#!/bin/sh\ntouch \"$0.began\"\nexec sleep 1000\n")
	w.repo = Open(w.repo.Dir(), "ssh://example.invalid/x.git", Options{
		Grace: 50 * time.Millisecond, Vars: []string{"PATH=" + os.Getenv("PATH"), "GIT_SSH_COMMAND=" + stuck},
	})
	w.must(w.repo.EnsureClone(t.Context(), anyCommit, nil))
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.repo.FetchCommit(ctx, "main", strings.Repeat("ab", 20), nil) }()
	testkit.Wait(t, "the remote is asked", func() bool { return exists(stuck + ".began") })
	cancel(errWanted)
	err := <-ended
	if !errors.Is(err, errWanted) || !errors.As(err, new(*process.StoppedError)) {
		t.Errorf("got %v", err)
	}
	// Waiting for the lock ends, too.
	unlock, err := w.repo.lock(t.Context())
	w.must(err)
	defer unlock()
	if err := w.repo.Checkout(ctx, strings.Repeat("ab", 20), nil); !errors.Is(err, errWanted) {
		t.Errorf("got %v", err)
	}
}
