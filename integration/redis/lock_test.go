//go:build integration

// Package redis_test tests internal/lock on a real Redis or Dragonfly server.
package redis_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/internal/lock"
	"github.com/ducompsoc/durhack-deployer/internal/redistest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// With this in the environment the test binary is a process that takes the lock
// that it is told to, says so, and holds it until its standard input ends.
const holderEnv = "REDIS_LOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if url := os.Getenv(holderEnv); url != "" {
		os.Exit(holdUntilInputEnds(url, os.Args[1]))
	}
	goleak.VerifyTestMain(m)
}

const ttl = 4 * time.Second // on a busy machine, too, it is refreshed in time

func holdUntilInputEnds(url, name string) int {
	l, err := lock.NewRedis(url, "test", ttl, slog.Default())
	if err == nil {
		_, _, err = l.Acquire(context.Background(), name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func open(t *testing.T, url string) *lock.Redis {
	t.Helper()
	l, err := lock.NewRedis(url, "test", ttl, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func client(t *testing.T, url string) *goredis.Client {
	t.Helper()
	o, err := goredis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// newName keeps tests on a shared server apart.
func newName() string { return "test-" + rand.Text() }

func key(name string) string { return "durhack-deployer:lock:test:" + name }

// awaitLoss waits until held ends and checks that the lock's loss is the cause.
func awaitLoss(t *testing.T, held context.Context) {
	t.Helper()
	select {
	case <-held.Done():
	case <-time.After(limit):
		t.Fatal("the holder was not told")
	}
	if !errors.Is(context.Cause(held), lock.ErrLost) {
		t.Fatalf("cause %v", context.Cause(held))
	}
}

func TestRedis_Excludes(t *testing.T) {
	url, name, ctx := anyURL(t), newName(), within(t)
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		l := open(t, url)
		wg.Go(func() {
			for range 3 {
				held, release, err := l.Acquire(ctx, name)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d holders at once", n)
				}
				if held.Err() != nil {
					t.Error(context.Cause(held))
				}
				inside.Add(-1)
				if err := release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// The lock must live longer than its time to live as long as it is held, also
// when the holder's own context has ended: its steps are still being stopped.
func TestRedis_IsRefreshedUntilRelease(t *testing.T) {
	url, name := anyURL(t), newName()
	l, c := open(t, url), client(t, url)
	ctx, cancel := context.WithCancel(within(t))
	held, release, err := l.Acquire(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-held.Done()
	if errors.Is(context.Cause(held), lock.ErrLost) {
		t.Error("a cancelled holder was told that it lost the lock")
	}
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if n, err := c.Exists(within(t), key(name)).Result(); err != nil || n != 1 {
			t.Fatalf("the key is gone while the lock is held: %v", err)
		}
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if err := release(); err != nil {
		t.Errorf("second release: %v", err)
	}
	if n := c.Exists(within(t), key(name)).Val(); n != 0 {
		t.Error("the key is left behind")
	}
}

func TestRedis_LossIsTold(t *testing.T) {
	url := anyURL(t)
	l, c := open(t, url), client(t, url)
	for how, damage := range map[string]func(name string) error{
		"deleted": func(name string) error { return c.Del(within(t), key(name)).Err() },
		"taken":   func(name string) error { return c.Set(within(t), key(name), "somebody else", time.Minute).Err() },
	} {
		t.Run(how, func(t *testing.T) {
			name := newName()
			held, release, err := l.Acquire(within(t), name)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(name); err != nil {
				t.Fatal(err)
			}
			awaitLoss(t, held)
			if err := release(); !errors.Is(err, lock.ErrLost) {
				t.Errorf("release says %v", err)
			}
			want := int64(0)
			if how == "taken" {
				want = 1 // the successor's key must survive our release
			}
			if n := c.Exists(within(t), key(name)).Val(); n != want {
				t.Errorf("%d keys, want %d", n, want)
			}
			_ = c.Del(within(t), key(name)).Err()
		})
	}
}

func TestRedis_AwayForLongIsALoss(t *testing.T) {
	s, name := startServer(t), newName()
	held, release, err := open(t, s.URL()).Acquire(within(t), name)
	if err != nil {
		t.Fatal(err)
	}
	s.Kill()
	awaitLoss(t, held)
	if err := release(); !errors.Is(err, lock.ErrLost) {
		t.Errorf("release says %v", err)
	}
}

func TestRedis_WaitsForAServerThatIsAway(t *testing.T) {
	s, name := startServer(t), newName()
	s.Kill()
	l := open(t, s.URL())
	type result struct {
		release func() error
		err     error
	}
	got := make(chan result, 1)
	ctx := within(t)
	go func() {
		_, release, err := l.Acquire(ctx, name)
		got <- result{release, err}
	}()
	select {
	case r := <-got:
		t.Fatalf("got in without a server: %v", r.err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	if err := r.release(); err != nil {
		t.Error(err)
	}
}

func TestRedis_KilledHolderIsOutOfTheWayAfterItsTime(t *testing.T) {
	url, name := anyURL(t), newName()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, name)
	cmd.Env = append(os.Environ(), holderEnv+"="+url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	l := open(t, url)
	short, cancel := context.WithTimeout(context.Background(), 2*ttl)
	defer cancel()
	if _, _, err := l.Acquire(short, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("two processes at once: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, release, err := l.Acquire(within(t), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestRedis_WrongPasswordIsToldWithoutIt(t *testing.T) {
	s := startServer(t)
	wrong := strings.Replace(s.URL(), redistest.Password, "hunter2", 1)
	var out testkit.Buffer
	l, err := lock.NewRedis(wrong, "test", ttl, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(within(t))
	failed := make(chan error, 1)
	go func() {
		_, _, err := l.Acquire(ctx, newName())
		failed <- err
	}()
	for end := time.Now().Add(limit); !strings.Contains(out.String(), "WRONGPASS"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say why: %s", out.String())
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) || strings.Contains(out.String()+err.Error(), "hunter2") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
