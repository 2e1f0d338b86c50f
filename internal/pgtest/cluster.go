package pgtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// newCluster starts a cluster that dies with this process, in a new directory
// that the caller removes after closing it.
func newCluster(ctx context.Context) (*localpg.Cluster, string, error) {
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		return nil, "", err
	}
	// Run by root, the server is another user's, who must be able to get in.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, "", errors.Join(err, os.RemoveAll(dir))
	}
	c, err := localpg.Open(ctx, localpg.Config{
		Dir:           filepath.Join(dir, "pg"),
		Log:           slog.New(slog.DiscardHandler),
		DieWithParent: true,
	})
	if err != nil {
		return nil, "", errors.Join(err, os.RemoveAll(dir))
	}
	return c, dir, nil
}

// Server is a private server of one test, which may stop and kill it.
type Server struct {
	cluster *localpg.Cluster
}

// NewServer starts a server of the test's own. It ends with the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	c, dir, err := newCluster(ctx)
	if err != nil {
		t.Fatalf("pgtest: start a server: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitTime)
		defer cancel()
		if err := errors.Join(c.Close(ctx), os.RemoveAll(dir)); err != nil {
			t.Errorf("pgtest: end a server: %v", err)
		}
	})
	return &Server{cluster: c}
}

// DSN returns the connection string of a database that this server has from
// the start, and keeps over Stop, Kill and Start.
func (s *Server) DSN() string { return s.cluster.DSN("postgres") }

// Database makes sure that the database exists and returns its connection string.
func (s *Server) Database(t testing.TB, name string) string {
	t.Helper()
	s.do(t, "make a database", func(ctx context.Context) error { return s.cluster.EnsureDatabase(ctx, name) })
	return s.cluster.DSN(name)
}

// PID returns the process ID of the server, or 0 when it does not run.
func (s *Server) PID() int { return s.cluster.PID() }

// Stop stops the server in order, cutting its sessions, and waits for its end.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.do(t, "stop the server", s.cluster.Stop)
}

// Start starts the server again and waits until it answers. It does nothing if it runs.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.do(t, "start the server", s.cluster.Start)
}

// Kill kills the server and all its sessions with SIGKILL and waits for their
// end. What was committed is there after Start, as after any crash but a power loss.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.do(t, "kill the server", s.kill)
}

func (s *Server) kill(ctx context.Context) error {
	pid := s.cluster.PID()
	if pid == 0 {
		return errors.New("it does not run")
	}
	// Stopped, it cannot make more while they are listed.
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, p := range append([]int{pid}, children...) {
		if err := unix.Kill(p, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", p, err)
		}
	}
	for {
		alive := s.cluster.PID() != 0
		for _, p := range children {
			s, there := process.ReadStat(p)
			alive = alive || there && s.Alive()
		}
		if !alive {
			return nil
		}
		if !retry.Sleep(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

func (s *Server) do(t testing.TB, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatalf("pgtest: %s: %v", what, err)
	}
}
