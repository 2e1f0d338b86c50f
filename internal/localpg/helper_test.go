package localpg_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	proc "github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// The test binary also plays other processes that use a cluster.
const (
	roleEnv = "LOCALPG_TEST_ROLE"
	dirEnv  = "LOCALPG_TEST_DIR"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
	case "connect":
		os.Exit(report(playConnect()))
	default:
		os.Exit(report(playUser()))
	}
	os.Exit(testkit.MainNoLeaks(m))
}

func report(err error) int {
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// playUser opens the cluster, says which process serves it, and closes it when
// its input ends.
func playUser() error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	c, err := localpg.Open(ctx, localpg.Config{
		Dir:           os.Getenv(dirEnv),
		DieWithParent: os.Getenv(roleEnv) == "mortal user",
		Log:           slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Println("pid:", c.PID())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return c.Close(ctx)
}

// playConnect tries a connection string and says what came of it.
func playConnect() error {
	conn, err := pgx.Connect(context.Background(), os.Getenv(dirEnv))
	if err != nil {
		return err
	}
	return conn.Close(context.Background())
}

// waitTime bounds each wait, far beyond what a loaded machine needs.
const waitTime = 3 * time.Minute

// identity is an OS user that a test plays.
type identity struct {
	name string
	cred *syscall.Credential // nil: the user that runs the tests
}

// identities are the users that the tests can play: as root also an ordinary one.
func identities(t *testing.T) []identity {
	t.Helper()
	ids := []identity{{name: "caller"}}
	if os.Geteuid() == 0 {
		ids = append(ids, identity{name: "nobody", cred: credentialOf(t, "nobody")})
	}
	return ids
}

func credentialOf(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// tempDir returns a directory that the identity owns and others can pass; those
// of t.TempDir keep everybody but the caller out.
func tempDir(t testing.TB, id identity) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if id.cred != nil {
		if err := os.Chown(dir, int(id.cred.Uid), int(id.cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var madeOnce struct {
	sync.Mutex
	dir string
}

// madeDir returns the directory of a cluster that was made and stopped, in a
// place of its own. One is made and then copied, as making takes a second.
func madeDir(t *testing.T) string {
	t.Helper()
	madeOnce.Lock()
	defer madeOnce.Unlock()
	if madeOnce.dir == "" {
		dir, err := os.MkdirTemp("", "localpg-")
		if err != nil {
			t.Fatal(err)
		}
		madeOnce.dir = dir
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		closeCluster(t, open(t, localpg.Config{Dir: filepath.Join(dir, "pg")}))
	}
	dir := filepath.Join(tempDir(t, identity{}), "pg")
	if out, err := exec.Command("cp", "-a", filepath.Join(madeOnce.dir, "pg"), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy a cluster: %v: %s", err, out)
	}
	return dir
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	t.Cleanup(cancel)
	return ctx
}

// open opens a cluster that is closed at the test's end, if not before.
func open(t *testing.T, cfg localpg.Config) *localpg.Cluster {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	cfg.DieWithParent = true
	c, err := localpg.Open(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeCluster(t, c) })
	return c
}

func closeCluster(t *testing.T, c *localpg.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string) (v T) {
	t.Helper()
	if err := conn.QueryRow(testContext(t), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// process is the test binary playing a part.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	ended bool
}

// play starts the test binary in a part, as the identity.
func play(t *testing.T, id identity, role, dir string) *process {
	t.Helper()
	// The binary itself lies where only the caller can reach it.
	cmd := exec.Command(executable(t))
	cmd.Env = append(os.Environ(), roleEnv+"="+role, dirEnv+"="+dir)
	cmd.Dir = "/"
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: id.cred}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(func() { p.end() })
	return p
}

// pid is the server's process ID that the process reports.
func (p *process) pid() int {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "pid:")))
	if err != nil || convErr != nil || pid == 0 {
		p.t.Fatalf("a user of the cluster says %q (%v)", line, errors.Join(err, convErr))
	}
	return pid
}

// end lets the process end by itself and returns what it still said.
func (p *process) end() (string, error) {
	if p.ended {
		return "", nil
	}
	p.ended = true
	_ = p.stdin.Close() // gone already if the process is
	rest, _ := io.ReadAll(p.out)
	return string(rest), p.cmd.Wait()
}

func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.end()
}

var executableOnce struct {
	sync.Mutex
	dir string
}

// executable is a copy of the test binary that every user can run.
func executable(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return os.Args[0]
	}
	executableOnce.Lock()
	defer executableOnce.Unlock()
	if executableOnce.dir == "" {
		dir, err := os.MkdirTemp("", "localpg-")
		if err != nil {
			t.Fatal(err)
		}
		executableOnce.dir = dir
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// By another program, as a file that this one has written cannot be run
		// while a child that it starts meanwhile still holds it open.
		if out, err := exec.Command("cp", self, filepath.Join(dir, "user")).CombinedOutput(); err != nil {
			t.Fatalf("copy the test binary: %v: %s", err, out)
		}
		if err := errors.Join(os.Chmod(dir, 0o711), os.Chmod(filepath.Join(dir, "user"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(executableOnce.dir, "user")
}

// lives tells whether a process exists and is no zombie.
func lives(pid int) bool {
	s, there := proc.ReadStat(pid)
	return there && s.Alive()
}
