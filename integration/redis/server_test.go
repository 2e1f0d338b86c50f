//go:build integration

package redis_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// urlEnv names a server to test on instead of one that the test starts. Tests
// that stop the server still start their own.
const urlEnv = "DURHACK_TEST_REDIS_URL"

// limit is for what is expected to happen soon; only a failure takes that long.
const limit = 30 * time.Second

// server is a redis-server of the test's own on a free port, with a password.
type server struct {
	t    *testing.T
	dir  string
	port int
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has been waited for
}

const password = "correct-horse"

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	for range 5 { // another program may take the port first
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if s.start() {
			t.Cleanup(s.kill)
			return s
		}
	}
	t.Fatalf("redis-server does not start; see %s", filepath.Join(s.dir, "log"))
	return nil
}

// start starts the program and says whether it came to answer.
func (s *server) start() bool {
	s.t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatalf("%v; apt-get install redis-server, or set %s to the URL of a server", err, urlEnv)
	}
	s.cmd = exec.Command(program, "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--requirepass", password,
		"--save", "", "--appendonly", "no", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log"))
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, gone := s.cmd, make(chan struct{})
	s.gone = gone
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	o, err := goredis.ParseURL(s.url())
	if err != nil {
		s.t.Fatal(err)
	}
	c := goredis.NewClient(o)
	defer c.Close()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if c.Ping(context.Background()).Err() == nil {
			return true
		}
		select {
		case <-gone:
			s.cmd = nil
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.kill()
	return false
}

// kill ends the server as a power cut would: it keeps nothing.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.gone
		s.cmd = nil
	}
}

func (s *server) url() string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", password, s.port)
}

// anyURL is the given server's URL, or that of one started for the test.
func anyURL(t *testing.T) string {
	t.Helper()
	if url := os.Getenv(urlEnv); url != "" {
		return url
	}
	return startServer(t).url()
}
