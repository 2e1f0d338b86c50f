//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// other is a user of every system, which owns nothing.
const other = "nobody"

// idOf is the number of the other user.
func idOf(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("only root can run steps as another user: run this as root")
	}
	u, err := user.Lookup(other)
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// own gives a directory and all in it to the other user.
func own(t *testing.T, dir string) {
	t.Helper()
	id := idOf(t)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, id, id)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A step of another user that tries to read what is the daemon's alone can read none of it,
// and one of the daemon's own user can: what it tries would work.
func TestIsolation_AStepReadsNothingOfTheDaemons(t *testing.T) {
	t.Parallel()
	r, roots := newRepo(t), newRepo(t)
	trying := []step{{name: "try", run: []string{"./try.sh"}}}
	s := newSite(t, "", // with a private Postgres
		deployment{slug: "web", repository: "ada/web", remote: r, steps: trying, extra: "umask = \"027\"\nuser = \"" + other + "\""},
		deployment{slug: "own", repository: "ada/own", remote: roots, steps: trying})
	credentials := filepath.Join(s.dir, "credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(credentials, "webhook_secret"), []byte("another secret, of systemd's"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"CREDENTIALS_DIRECTORY=" + credentials, "DATABASE_PASSWORD=hunter2hunter2", "HTTPS_PROXY=http://ada:hunter2hunter2@127.0.0.1:9"}
	p := s.start("serve")
	g := s.github(p.addr())
	p.says("msg=working")
	postmaster, err := os.ReadFile(filepath.Join(s.state, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	socket := strings.Split(string(postmaster), "\n")[4] + "/.s.PGSQL." + strings.Split(string(postmaster), "\n")[3]
	// The daemon is the parent of every step.
	tries := []string{
		"cat " + filepath.Join(s.state, "signer.key"),
		"cat " + s.config,
		"cat " + filepath.Join(credentials, "webhook_secret"),
		"cat /proc/$PPID/environ",
		"cat /proc/$PPID/maps",
		"ls -l /proc/$PPID/fd/",
		"kill -0 $PPID",
		"ls " + filepath.Join(s.state, "runs", "web"),
		"ls " + filepath.Join(s.state, "queues", "web"),
		"ls " + filepath.Join(s.state, "queues", "main"),
		"touch " + filepath.Join(s.state, "queues", "main", "forged"),
		"ls " + filepath.Join(s.state, "locks"),
		"ls " + filepath.Join(s.state, "postgres"),
		"cat " + filepath.Join(s.state, "postgres", "data", "PG_VERSION"),
		`perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die' ` + socket,
	}
	text := "#!/bin/sh\nid -un; umask; env\necho 'output can be opened' > /dev/stderr\n"
	for i, try := range tries {
		text += fmt.Sprintf("if %s > /dev/null 2>&1; then echo 'can: %d'; else echo 'cannot: %d'; fi\n", try, i, i)
	}
	text += "echo \"$HOME\" > made; rm -f " + filepath.Join(s.state, "queues", "main", "forged") + " || true\n"
	commits := r.push("main", commit{"Try", map[string]string{"try.sh": text}})
	roots.git(nil, "fetch", "--quiet", r.dir, "+refs/heads/*:refs/heads/*")
	own(t, r.dir)
	for slug, can := range map[string]string{"web": "cannot", "own": "can"} {
		d := push("ada/"+slug, "main", commits[0])
		g.send(d)
		await(t, "the end of the run", func() bool {
			log := s.command("log", "--json", "--delivery", d.id).out
			return strings.Contains(log, `"type":"deployed"`) || strings.Contains(log, `"type":"failed"`)
		})
		s.live(slug, commits[0])
		log := s.must("logs", slug)
		for i, try := range tries {
			if !strings.Contains(log, fmt.Sprintf("\n%s: %d\n", can, i)) {
				t.Errorf("steps of %s should say %q: %s", slug, can, try)
			}
		}
		if slug == "web" && (!strings.Contains(log, "\n"+other+"\n0027\n") || strings.Contains(log, "PASSW") || strings.Contains(log, "PROXY") || !strings.Contains(log, "\nUSER="+other+"\n")) {
			t.Errorf("steps of another user see:\n%s", log)
		}
		if !strings.Contains(log, "\noutput can be opened\n") {
			t.Errorf("steps of %s cannot open their output", slug)
		}
	}
	id := idOf(t)
	for name, mode := range map[string]os.FileMode{".": 0o750, "try.sh": 0o750, "made": 0o640, ".git/index": 0o640} {
		path := filepath.Join(s.checkout(s.deployments[0]), name)
		info, err := os.Lstat(path)
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != id || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if plan := s.must("plan", "web"); !strings.Contains(plan, "would run as "+other+":") {
		t.Errorf("the plan does not name the user:\n%s", plan)
	}
}

// A daemon that was killed, and one that is told to cancel, ends programs of another user.
func TestIsolation_ProgramsOfAnotherUserAreEnded(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	own(t, r.dir)
	s := newSite(t, pgtest.DSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r, extra: "on_interrupt = \"fail\"\nuser = \"" + other + "\"",
		steps: []step{script("wait", "trap '' TERM; echo $$ > pid; while :; do sleep 1000; done")},
	})
	file := filepath.Join(s.checkout(s.deployments[0]), "pid")
	running := func() int {
		pid := 0
		await(t, "the step", func() bool {
			b, err := os.ReadFile(file)
			if err == nil {
				pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
			}
			return err == nil
		})
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		id := idOf(t)
		if err != nil || !regexp.MustCompile(fmt.Sprintf(`\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n`, id)).Match(status) {
			t.Fatalf("the step runs as somebody else (%v):\n%s", err, status)
		}
		return pid
	}
	gone := func(pid int) {
		t.Helper()
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	p := s.start("serve")
	g := s.github(p.addr())
	first, second := push("ada/web", "main", commits[0]), push("ada/web", "main", commits[1])
	g.send(first)
	orphan := running()
	p.kill()
	p = s.start("serve")
	g.addr.Store(p.addr())
	s.ends(first.id)
	gone(orphan)
	g.send(second)
	pid := running()
	s.must("cancel", "web", "--reason", "a test")
	all := s.ends(second.id)
	gone(pid)
	if failed := all.of(second.id).type_(eventlog.TypeFailed); len(failed) != 1 || !strings.Contains(string(failed[0].Data), "canceled") {
		t.Errorf("the story:\n%s", all.of(second.id))
	}
}
