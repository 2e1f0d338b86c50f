// Package redistest starts Redis servers for tests: private, on a free port of
// the loopback, with a password, keeping nothing. They end with the process
// that started them.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// URLEnv names, in the environment, a server to use where a test does not stop it.
const URLEnv = "DURHACK_TEST_REDIS_URL"

// Password is that of every server.
const Password = "correct-horse"

const (
	// startTimeout bounds the wait for a server's first answer.
	startTimeout = 30 * time.Second
	// portTries is how often another program may take the port first.
	portTries = 5
)

// ErrMissing says that the machine has no redis-server.
var ErrMissing = errors.New("there is no redis-server: apt-get install redis-server, or set " + URLEnv + " to the URL of a server")

// Server is a redis-server. Its methods are for one goroutine.
type Server struct {
	program, dir string
	port         int
	pid          int           // 0 while it does not run
	gone         chan struct{} // closed when it has been waited for
}

// Start starts a server on a free port. Its log goes to the directory, which
// must exist. The caller ends it with Kill.
func Start(ctx context.Context, dir string) (*Server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrMissing
	}
	s := &Server{program: program, dir: dir}
	for range portTries {
		if s.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = s.Restart(ctx); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close() // it was never used
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Restart starts the server again, on the same port and empty.
func (s *Server) Restart(ctx context.Context) error {
	if s.pid != 0 {
		return errors.New("the server runs already")
	}
	cmd := exec.Command(s.program, "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--requirepass", Password,
		"--save", "", "--appendonly", "no", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "redis.log"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		// The signal comes when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed, so never well
		}
	}()
	if err := <-started; err != nil {
		<-gone
		return fmt.Errorf("start redis-server: %w", err)
	}
	s.pid, s.gone = cmd.Process.Pid, gone
	if err := s.await(ctx); err != nil {
		s.Kill()
		return fmt.Errorf("start redis-server (its log is in %s): %w", s.dir, err)
	}
	return nil
}

func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	o, err := goredis.ParseURL(s.URL())
	if err != nil {
		return err
	}
	c := goredis.NewClient(o)
	defer c.Close() //nolint:errcheck // nothing is lost
	for {
		if err := c.Ping(ctx).Err(); err == nil {
			return nil
		}
		select {
		case <-s.gone:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the server as a power cut would, and waits for its end. It does
// nothing where the server does not run.
func (s *Server) Kill() {
	if s.pid == 0 {
		return
	}
	if p, err := os.FindProcess(s.pid); err == nil {
		_ = p.Kill() // it may have ended by itself
	}
	<-s.gone
	s.pid = 0
}

// URL is where the server is, or was.
func (s *Server) URL() string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", Password, s.port)
}
