package localpg_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestCluster_TheFirstMakesItTheLastStopsItAndTheDataStays(t *testing.T) {
	for _, id := range identities(t) {
		t.Run(id.name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t, id), "state", "pg")
			if id.cred != nil {
				// The caller is root; only the parent's owner says whom to run it as.
				dir = filepath.Join(tempDir(t, id), "pg")
			}
			cfg := localpg.Config{Dir: dir, Durable: id.cred == nil}
			fsync := map[bool]string{true: "on", false: "off"}[cfg.Durable]
			c := open(t, cfg)
			conn := connect(t, c.DSN("postgres"))
			if got := query[string](t, conn, "SELECT current_user || ' ' || current_setting('server_encoding') || ' ' || current_setting('listen_addresses') || '.' || current_setting('fsync')"); got != localpg.User+" UTF8 ."+fsync {
				t.Errorf("the server says %q", got)
			}
			var st unix.Stat_t
			if err := unix.Stat("/proc/"+strconv.Itoa(c.PID()), &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid == 0 || id.cred != nil && st.Uid != id.cred.Uid {
				t.Errorf("the server runs as user %d", st.Uid)
			}
			for _, name := range []string{"", "users.lock", "start.lock", "postgres.log", "run", "data"} {
				var f unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, name), &f); err != nil {
					t.Fatal(err)
				}
				if f.Uid != st.Uid || f.Mode&0o077 != 0 {
					t.Errorf("%q belongs to user %d with mode %o", name, f.Uid, f.Mode)
				}
			}

			// One more user of the same process, racing for the same database.
			second := open(t, cfg)
			var made sync.WaitGroup
			for _, c := range []*localpg.Cluster{c, second, c, second} {
				made.Go(func() {
					if err := c.EnsureDatabase(context.Background(), `it's "the" log`); err != nil {
						t.Error(err)
					}
				})
			}
			made.Wait()
			if _, err := connect(t, c.DSN(`it's "the" log`)).Exec(testContext(t), "CREATE TABLE kept AS SELECT 1 AS a"); err != nil {
				t.Fatal(err)
			}

			pid := second.PID()
			closeCluster(t, c)
			if !lives(pid) {
				t.Fatal("the server ended while it had a user")
			}
			closeCluster(t, second)
			if lives(pid) || second.PID() != 0 {
				t.Fatal("the server outlived its last user")
			}
			if err := second.Start(testContext(t)); err == nil {
				t.Error("a closed cluster was started")
			}
			again := open(t, cfg)
			if n := query[int](t, connect(t, again.DSN(`it's "the" log`)), "SELECT a FROM kept"); n != 1 {
				t.Error("the data is gone")
			}
		})
	}
}

func TestOpen_ProcessesAtOnceGetOneCluster(t *testing.T) {
	for _, id := range identities(t) {
		t.Run(id.name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t, id), "pg")
			var users []*process
			for range 4 {
				users = append(users, play(t, id, "user", dir))
			}
			pid := users[0].pid()
			for _, u := range users[1:] {
				if other := u.pid(); other != pid {
					t.Errorf("one user has process %d, another %d", pid, other)
				}
			}
			if id.cred != nil {
				// Root may use a cluster that an ordinary user runs.
				c := open(t, localpg.Config{Dir: dir})
				query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
				closeCluster(t, c)
			}
			for i, u := range users {
				if !lives(pid) {
					t.Fatalf("the server ended with %d users left", len(users)-i)
				}
				if said, err := u.end(); err != nil {
					t.Fatalf("%v: %s", err, said)
				}
			}
			if lives(pid) {
				t.Error("the server outlived its last user")
			}
		})
	}
}

func TestOpen_AdoptsTheClusterOfAKilledUser(t *testing.T) {
	dir := madeDir(t)
	u := play(t, identity{}, "user", dir)
	pid := u.pid()
	u.kill()
	if !lives(pid) {
		t.Fatal("the server died with its user")
	}
	c := open(t, localpg.Config{Dir: dir, BinDir: "/nonexistent"}) // adopting needs no programs
	if c.PID() != pid {
		t.Errorf("process %d was not adopted: %d runs", pid, c.PID())
	}
	query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
	closeCluster(t, c)
	if lives(pid) {
		t.Error("an adopted server outlived its last user")
	}
}

func TestCluster_DiesWithItsParent(t *testing.T) {
	dir := madeDir(t)
	u := play(t, identity{}, "mortal user", dir)
	pid := u.pid()
	u.kill()
	testkit.Wait(t, "the server of a killed test ends", func() bool { return !lives(pid) })
}

func TestOpen_UserKilledWhileMakingTheCluster(t *testing.T) {
	dir := filepath.Join(tempDir(t, identity{}), "pg")
	u := play(t, identity{}, "user", dir)
	halves := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "data.new-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	testkit.Wait(t, "a cluster is being made", func() bool { return len(halves()) > 0 })
	u.kill()
	c := open(t, localpg.Config{Dir: dir})
	query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
	closeCluster(t, c)
	// The orphaned initdb may still write there for a moment, even after its
	// directory was removed; it is the next making that removes the rest. A cluster that
	// is whole is not made again, so nothing more is asserted about the half.
}

func TestOpen_MakesAHalfMadeClusterAgain(t *testing.T) {
	dir := madeDir(t)
	half := filepath.Join(dir, "data.new-X")
	if err := os.Rename(filepath.Join(dir, "data"), half); err != nil {
		t.Fatal(err)
	}
	c := open(t, localpg.Config{Dir: dir})
	query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-made cluster is still there: %v", err)
	}
}

func TestOpen_StalePIDFile(t *testing.T) {
	dir := madeDir(t)
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	// Somebody else's process has the ID by now, as the same user, which is what
	// Postgres itself takes for a living server.
	other := exec.Command("sleep", "600")
	if os.Geteuid() == 0 {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "a child becomes a zombie", func() bool { return !lives(zombie.Process.Pid) })

	for name, content := range map[string]string{
		"living":  strconv.Itoa(other.Process.Pid) + "\n" + dir + "/data\n1\n5432\n" + dir + "/run\n\n1 1\nready\n",
		"dead":    strconv.Itoa(gone.Process.Pid) + "\n" + dir + "/data\n1\n5432\n" + dir + "/run\n\n1 1\nready\n",
		"zombie":  strconv.Itoa(zombie.Process.Pid) + "\n" + dir + "/data\n1\n5432\n" + dir + "/run\n\n1 1\nready\n",
		"garbage": "what\n",
		"empty":   "",
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{pidFile, filepath.Join(dir, "run", ".s.PGSQL.5432.lock")} {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
					t.Fatal(err)
				}
			}
			c := open(t, localpg.Config{Dir: dir})
			query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
			closeCluster(t, c)
		})
	}
	if !lives(other.Process.Pid) {
		t.Error("an innocent process was killed")
	}
	if err := zombie.Wait(); err != nil {
		t.Errorf("the end of another's child was taken away: %v", err)
	}
}

func TestSupervise_RestartsAKilledServer(t *testing.T) {
	c := open(t, localpg.Config{Dir: madeDir(t)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Supervise(ctx) }()

	for range 2 {
		conn := connect(t, c.DSN("postgres"))
		backend := query[int](t, conn, "SELECT pg_backend_pid()")
		pid := c.PID()
		// Stopped, the session cannot see that its server died, and holds the
		// shared memory: a start must be refused until it goes on.
		if err := unix.Kill(backend, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		testkit.Wait(t, "a start is refused", func() bool {
			b, err := os.ReadFile(c.LogPath())
			return err == nil && strings.Contains(string(b), "pre-existing shared memory block")
		})
		if err := unix.Kill(backend, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		testkit.Wait(t, "another server runs", func() bool { now := c.PID(); return now != 0 && now != pid })
		if err := c.Start(testContext(t)); err != nil { // waits until it answers
			t.Fatal(err)
		}
		query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
		if err := os.Truncate(c.LogPath(), 0); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A SIGTERM to every process of a service makes the server wait for its
// sessions; the next start must not wait with it.
func TestOpen_HurriesAStoppingServer(t *testing.T) {
	dir := madeDir(t)
	c := open(t, localpg.Config{Dir: dir})
	conn := connect(t, c.DSN("postgres"))
	pid := c.PID()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the server stops", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
		return err == nil && strings.Contains(string(b), "stopping")
	})
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if now := c.PID(); now == 0 || now == pid {
		t.Errorf("process %d was to be followed by another; there is %d", pid, now)
	}
	if err := conn.Ping(testContext(t)); err == nil {
		t.Error("a session outlived its server")
	}
}

func TestOpen_CancelledLeavesNothing(t *testing.T) {
	dir := filepath.Join(tempDir(t, identity{}), "pg")
	ctx, cancel := context.WithCancel(context.Background())
	// Ends it in the middle of making or starting.
	log := cancelOn(cancel, "made a private Postgres cluster")
	c, err := localpg.Open(ctx, localpg.Config{Dir: dir, Log: log})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled start returns %v, %v", c, err)
	}
	if matches, err := filepath.Glob(filepath.Join(dir, "data", "postmaster.pid")); err != nil || len(matches) > 0 {
		t.Errorf("a server was left: %v %v", matches, err)
	}
	c = open(t, localpg.Config{Dir: dir})
	query[int](t, connect(t, c.DSN("postgres")), "SELECT 1")
}

func TestSupervise_BoundsTheServersLog(t *testing.T) {
	dir := madeDir(t)
	grow := func() {
		t.Helper()
		if err := os.Truncate(filepath.Join(dir, "postgres.log"), localpg.MaxLog+1); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		t.Helper()
		st, err := os.Stat(filepath.Join(dir, "postgres.log"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	grow()
	c := open(t, localpg.Config{Dir: dir})
	if n := size(); n > 1<<16 {
		t.Errorf("the log has %d bytes after a start", n)
	}
	grow()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Supervise(ctx) }()
	testkit.Wait(t, "the log of a running server is emptied", func() bool { return size() < 1<<16 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
