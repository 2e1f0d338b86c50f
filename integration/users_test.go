package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// IDs that belong to nobody: the listener's user, the worker's where Postgres
// does not care, and the group that shares the main queue.
const listenerID, workerID, sharedID = 54301, 54302, 54303

// listen and work have different users, who share the directory of the main
// queue and nothing else.
func TestListenAndWorkAsTwoUsers(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 3)
	s := newSite(t, pgtest.DSN(t), deployment{slug: "web", repository: "ada/web", remote: r})
	var asListener, asWorker *syscall.Credential
	if os.Geteuid() == 0 {
		asListener = &syscall.Credential{Uid: listenerID, Gid: listenerID, Groups: []uint32{sharedID}}
		asWorker = &syscall.Credential{Uid: workerID, Gid: workerID, Groups: []uint32{sharedID}}
		if id, ok := socketOwner(t, s.dsn); ok {
			asWorker.Uid, asWorker.Gid = id, id
		}
	} else {
		t.Log("only root can make processes of other users: both run as this one")
	}

	// Each has its own configuration: the secret is the listener's, the
	// database the worker's.
	dsn, secret := s.dsn, s.secret
	workerConfig := s.config
	s.secret = ""
	s.configure()
	listenerConfig := filepath.Join(s.dir, "listener.toml")
	s.dsn, s.secret = "", secret
	deployments := s.deployments
	s.deployments = nil
	if err := os.WriteFile(listenerConfig, []byte(s.settings(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.dsn, s.deployments = dsn, deployments
	// What an installation makes.
	main := s.queueDir("main")
	www := filepath.Join(s.dir, "www")
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{s.state, 0o751}, {filepath.Dir(main), 0o751}, {main, 0o770 | os.ModeSetgid}, {www, 0o755}} {
		if err := os.MkdirAll(dir.path, 0o700); err != nil {
			t.Fatal(err)
		}
		if asWorker != nil {
			group := int(asWorker.Gid)
			if dir.path == main {
				group = sharedID
			}
			chown(t, dir.path, int(asWorker.Uid), group)
		}
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			t.Fatal(err)
		}
	}
	if asWorker != nil {
		chown(t, workerConfig, int(asWorker.Uid), int(asWorker.Gid))
		chown(t, listenerConfig, int(asListener.Uid), int(asListener.Gid))
		// git refuses the repository of another user.
		err := filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, int(asWorker.Uid), int(asWorker.Gid)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// The listener alone acknowledges, ...
	listener := s.startAs("listen", listenerConfig, asListener)
	addr := listener.addr()
	g := s.github(addr)
	first := push("ada/web", "main", commits[0])
	g.send(first)
	if n := len(s.queued("main")); n != 1 {
		t.Errorf("%d files in the main queue", n)
	}
	// ... and the worker, started later, does the rest,
	worker := s.startAs("work", workerConfig, asWorker)
	s.ends(first.id)
	second := push("ada/web", "main", commits[1])
	g.send(second)
	s.ends(second.id)
	// also what came while it was away; and a listener that is killed harms nothing.
	worker.stop()
	third := push("ada/web", "main", commits[2])
	g.send(third)
	listener.kill()
	s.startAs("work", workerConfig, asWorker)
	s.ends(third.id)
	s.live("web", commits[2])
	s.accounted(first.id, second.id, third.id)
	listener = s.startAs("listen", listenerConfig, asListener)
	fourth := push("ada/web", "other", commits[2])
	g.addr.Store(listener.addr())
	g.send(fourth)
	s.ends(fourth.id)
	s.accounted(first.id, second.id, third.id, fourth.id)

	if asListener == nil {
		return
	}
	// What the listener's user cannot do. The worker made all of this.
	for _, what := range [][]string{
		{"ls", s.state}, {"ls", filepath.Join(s.state, "queues")}, {"ls", s.queueDir("web")},
		{"ls", filepath.Join(s.state, "runs")}, {"ls", filepath.Join(s.state, "runs", "web")},
		{"cat", filepath.Join(s.state, "runs", "web", first.id+"-1.log")},
		{"cat", workerConfig}, {"touch", filepath.Join(s.state, "mine")}, {"touch", filepath.Join(s.state, "queues", "mine")},
		{"touch", filepath.Join(s.queueDir("web"), "mine")}, {"touch", filepath.Join(www, "web", "index.html")},
	} {
		cmd := exec.Command(what[0], what[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: asListener}
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
			t.Errorf("the listener's user may %q (%v): %s", what, err, out)
		}
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(listener.cmd.Process.Pid), "status"))
	if err != nil || !strings.Contains(string(b), "\nUid:\t"+strconv.Itoa(listenerID)+"\t") {
		t.Errorf("the listener runs as somebody else (%v)", err)
	}
}

// socketOwner is who owns the unix socket of a database: the one user that a
// private cluster lets in, beside root.
func socketOwner(t *testing.T, dsn string) (uint32, bool) {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(cfg.Host) {
		return 0, false
	}
	var st unix.Stat_t
	socket := filepath.Join(cfg.Host, ".s.PGSQL."+strconv.Itoa(int(cfg.Port)))
	if err := unix.Stat(socket, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Uid != 0
}

func chown(t *testing.T, path string, uid, gid int) {
	t.Helper()
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}
