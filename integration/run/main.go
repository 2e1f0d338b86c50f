// Command run runs the integration tests on a Postgres and a Redis that it
// brings up before and takes down after: with Docker those of compose.yaml, and
// without a Docker engine a local Postgres and a local redis-server. Its
// arguments go to go test:
//
//	go run ./integration/run -race -run Redis -v
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/redistest"
)

const (
	databaseEnv = "DURHACK_TEST_DATABASE_URL"
	// downTimeout bounds the taking down, also after an interrupt.
	downTimeout = time.Minute
	// testGrace is for the tests to end after an interrupt.
	testGrace = 15 * time.Second
)

// servers are what the tests run on.
type servers struct {
	database, redis string
	// down ends them and removes what they kept.
	down func(context.Context) error
}

func main() {
	// An interrupt ends the tests; then the servers are taken down as ever.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func run(ctx context.Context, args []string) (err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	// Tests that stop a lock server have one of their own, so it is needed in any case.
	if _, err := exec.LookPath("redis-server"); err != nil {
		return redistest.ErrMissing
	}
	up := local
	if why := engineMissing(ctx); why == "" {
		up = compose
	} else {
		fmt.Fprintf(os.Stderr, "no Docker engine (%s): using a local Postgres and redis-server\n", why)
	}
	s, err := up(ctx, root)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		err = errors.Join(err, s.down(ctx))
	}()
	// Tests that are interrupted do not come to remove what they made.
	temp, err := os.MkdirTemp("", "durhack-test-")
	if err != nil {
		return fmt.Errorf("make a directory for the tests: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	// As the system's own: some of their processes are other users'.
	if err := os.Chmod(temp, 0o777|os.ModeSticky); err != nil {
		return err
	}
	return test(ctx, root, temp, s, args)
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the root of the module (run this inside it): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// test runs go test in its own process group, so that a Ctrl-C reaches it
// once and through here.
func test(ctx context.Context, root, temp string, s servers, args []string) error {
	argv := slices.Concat([]string{"test", "-count=1", "-timeout=20m", "-tags=integration"}, args, []string{"./integration/..."})
	fmt.Fprintln(os.Stderr, "go", strings.Join(argv, " "))
	cmd := exec.CommandContext(ctx, "go", argv...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), databaseEnv+"="+s.database, redistest.URLEnv+"="+s.redis, "TMPDIR="+temp)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = testGrace
	err := cmd.Run()
	if ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the group is empty where all went well
		return errors.New("interrupted")
	}
	if err != nil {
		return fmt.Errorf("the tests failed: %w", err)
	}
	return nil
}
