package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// limit is for what is expected to happen soon; only a failure takes that long.
const limit = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// acquired starts an Acquire and returns a channel that gives its release.
func acquired(ctx context.Context, l *Flock, name string) <-chan func() error {
	got := make(chan func() error, 1)
	go func() {
		defer close(got)
		if _, release, err := l.Acquire(ctx, name); err == nil {
			got <- release
		}
	}()
	return got
}

func TestFlock_Excludes(t *testing.T) {
	l := NewFlock(t.TempDir())
	ctx := within(t)
	var inside, rounds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				_, release, err := l.Acquire(ctx, "web")
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d holders at once", n)
				}
				rounds.Add(1)
				inside.Add(-1)
				if err := release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if rounds.Load() != 24 {
		t.Errorf("%d of 24 rounds", rounds.Load())
	}
	if _, err := os.Stat(l.Path("web")); err != nil {
		t.Errorf("the lock file must stay: %v", err)
	}
}

func TestFlock_NamesAreIndependent(t *testing.T) {
	l := NewFlock(t.TempDir())
	for _, name := range []string{"web", "api", "web.lock", "a..b"} {
		_, release, err := l.Acquire(within(t), name)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
}

func TestFlock_RefusesNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queues")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../web", "a/b", ".hidden", "a\x00b", "a b", "a\n"} {
		if _, _, err := NewFlock(dir).Acquire(within(t), name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "..", "*.lock")); len(left) > 0 {
		t.Errorf("files outside: %v", left)
	}
}

func TestFlock_GivesUpWithItsContext(t *testing.T) {
	l := NewFlock(t.TempDir())
	_, release, err := l.Acquire(within(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	failed := make(chan error, 1)
	go func() {
		_, _, err := l.Acquire(ctx, "web")
		failed <- err
	}()
	cancel(stop)
	select {
	case err := <-failed:
		if !errors.Is(err, stop) {
			t.Errorf("got %v, want the cause", err)
		}
	case <-time.After(limit):
		t.Fatal("still waiting")
	}
}

// The holder's context ends its work, not its hold: steps are still being ended.
func TestFlock_IsHeldUntilReleaseEvenWhenCancelled(t *testing.T) {
	l := NewFlock(t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	held, release, err := l.Acquire(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-held.Done()
	if f, err := l.try("web"); err != nil || f != nil {
		t.Fatalf("somebody else got in: %v, %v", f, err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Errorf("second release: %v", err)
	}
	_, again, err := l.Acquire(within(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	// A release of the earlier hold must not free this one.
	_ = release()
	if f, _ := l.try("web"); f != nil {
		t.Error("an old release freed a new hold")
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}

func TestFlock_TellsOfARemovedFile(t *testing.T) {
	for _, how := range []struct {
		name   string
		damage func(path string) error
	}{
		{"removed", os.Remove},
		{"replaced", func(path string) error {
			if err := os.WriteFile(path+".new", nil, 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			l := NewFlock(t.TempDir())
			held, release, err := l.Acquire(within(t), "web")
			if err != nil {
				t.Fatal(err)
			}
			if err := how.damage(l.Path("web")); err != nil {
				t.Fatal(err)
			}
			select {
			case <-held.Done():
			case <-time.After(limit):
				t.Fatal("the holder was not told")
			}
			if !errors.Is(context.Cause(held), ErrLost) {
				t.Errorf("cause %v", context.Cause(held))
			}
			if err := release(); !errors.Is(err, ErrLost) {
				t.Errorf("release says %v", err)
			}
		})
	}
}

func TestFlock_IsNotFooledByWhatStandsInItsPlace(t *testing.T) {
	dir := t.TempDir()
	l := NewFlock(dir)
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, l.Path("link")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Acquire(within(t), "link"); err == nil {
		t.Error("a symbolic link was followed")
	}
	if err := syscall.Mkfifo(l.Path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, release, err := l.Acquire(within(t), "fifo") // must not hang in open(2)
	if err == nil {
		_ = release()
	}
}

// Anyone who can read the file can hold the lock.
func TestFlock_FilesAreForTheirOwner(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "state", "locks", "daemon")
	l := NewFlock(dir)
	_, release, err := l.Acquire(within(t), "web.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	for path, mode := range map[string]os.FileMode{
		filepath.Dir(dir): os.ModeDir | 0o750, dir: os.ModeDir | 0o750, l.Path("web.lock"): 0o640,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info, err, mode)
		}
	}
}

// What root makes is of use to the owner of the directory.
func TestFlock_OfRootIsTheOwnersToo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("this is not root, which has nothing to give away")
	}
	state := t.TempDir()
	const nobody = 65534
	if os.Geteuid() == 0 {
		if err := os.Chown(state, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.Stat(state)
	if err != nil {
		t.Fatal(err)
	}
	l := NewFlock(filepath.Join(state, "locks"))
	_, release, err := l.Acquire(within(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	owner := func(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
	for _, path := range []string{filepath.Join(state, "locks"), l.Path("web")} {
		if info, err := os.Stat(path); err != nil || owner(info) != owner(want) {
			t.Errorf("%s belongs to %v, %v; want %d", path, info, err, owner(want))
		}
	}
}

func TestFlock_BetweenProcesses(t *testing.T) {
	for _, end := range []struct {
		name string
		how  func(t *testing.T, cmd *exec.Cmd, stdin interface{ Close() error })
	}{
		{"released", func(t *testing.T, _ *exec.Cmd, stdin interface{ Close() error }) {
			if err := stdin.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"killed", func(t *testing.T, cmd *exec.Cmd, _ interface{ Close() error }) {
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			dir := t.TempDir()
			l := NewFlock(dir)
			cmd, stdin := startHolder(t, dir)
			if f, err := l.try("web"); err != nil || f != nil {
				t.Fatalf("two processes at once: %v, %v", f, err)
			}
			if holder, err := l.Holder(within(t), "web"); err != nil || !strings.HasPrefix(holder, fmt.Sprintf("process %d (", cmd.Process.Pid)) {
				t.Errorf("the holder is %q, %v, want process %d", holder, err, cmd.Process.Pid)
			}
			got := acquired(within(t), l, "web")
			end.how(t, cmd, stdin)
			release, ok := <-got
			if !ok {
				t.Fatal("the lock did not become free")
			}
			if err := release(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A step that outlives its deploy must not keep the next one out.
func TestFlock_IsNotInheritedBySteps(t *testing.T) {
	l := NewFlock(t.TempDir())
	_, release, err := l.Acquire(within(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	step := exec.Command("sleep", "600")
	if err := step.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = step.Process.Kill()
		_ = step.Wait()
	})
	if err := release(); err != nil {
		t.Fatal(err)
	}
	_, release, err = l.Acquire(within(t), "web")
	if err != nil {
		t.Fatalf("the step holds the lock: %v", err)
	}
	_ = release()
}

func TestFlock_Held(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := NewFlock(dir)
	held := func(want bool) {
		t.Helper()
		if got, err := l.Held("web"); err != nil || got != want {
			t.Errorf("held: %t, %v; want %t", got, err, want)
		}
	}
	held(false)
	if _, err := os.Lstat(l.Path("web")); !os.IsNotExist(err) {
		t.Errorf("looking made a file: %v", err)
	}
	_, release, err := l.Acquire(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	held(true)
	if err := release(); err != nil {
		t.Fatal(err)
	}
	held(false)
	if _, err := l.Held("../web"); err == nil {
		t.Error("a name that is a path was looked at")
	}
}

// A child shares every open file of its parent from fork to exec.
func TestFlock_IsFreeAfterReleaseWhileAChildIsStarted(t *testing.T) {
	l := NewFlock(t.TempDir())
	f, err := l.try("web")
	if err != nil || f == nil {
		t.Fatalf("lock: %v, %v", f, err)
	}
	_, release := l.hold(within(t), "web", f)
	child, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child)
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if held, err := l.Held("web"); err != nil || held {
		t.Errorf("after its release: held %v, %v", held, err)
	}
}
