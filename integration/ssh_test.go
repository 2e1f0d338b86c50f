//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// sshKey makes a private key of this user's.
func sshKey(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// sshd serves this host on loopback to anyone who has the key. It returns where.
func sshd(t *testing.T, hostKey, authorized string) (addr string) {
	t.Helper()
	path := "/usr/sbin/sshd" // wants to be called so
	addr = noAddr()
	host, port, _ := net.SplitHostPort(addr)
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path, "-D", "-e", "-f", os.DevNull, "-h", hostKey, "-o", "ListenAddress="+host, "-p", port, "-o", "PidFile=none",
		"-o", "AuthorizedKeysFile="+authorized, "-o", "PermitRootLogin=prohibit-password", "-o", "UsePAM=no", "-o", "StrictModes=no")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	await(t, "sshd", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return addr
}

// Git shows a remote the key of the deployment and no other, and remembers the remote's own.
func TestSSH_DeploysByAKey(t *testing.T) {
	t.Parallel()
	r, hidden := newRepo(t), newRepo(t)
	commits := r.pages("main", 1)
	hidden.pages("main", 1)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	key := func(name string) string { return filepath.Join(keys, name) }
	for _, name := range []string{"web", "other", "host"} {
		sshKey(t, key(name))
	}
	addr := sshd(t, key("host"), key("web.pub"))
	over := func(r *repo) *repo { return &repo{t: t, dir: fmt.Sprintf("ssh://%s@%s%s", me.Username, addr, r.dir)} }
	s := newSite(t, pgtest.DSN(t),
		deployment{slug: "web", repository: "ada/web", remote: over(r), extra: fmt.Sprintf("key = %q", key("web"))},
		deployment{slug: "other", repository: "ada/web", remote: over(hidden), extra: fmt.Sprintf("key = %q", key("other"))})
	// What somebody has set in an account, or for everything, is not used.
	s.extra = "[env]\nGIT_SSH_COMMAND = \"false\""
	s.configure()
	p := s.start("serve")
	g := s.github(p.addr())
	send := func(commit string) story {
		d := push("ada/web", "main", commit)
		g.send(d)
		return s.ends(d.id)
	}
	all := send(commits[0])
	s.live("web", commits[0])
	if got := fmt.Sprint(all.at("other")); !strings.Contains(got, "failed") || !strings.Contains(s.must("logs", "other"), "Permission denied") {
		t.Errorf("with a key that the remote does not know: %s", got)
	}
	b, err := os.ReadFile(filepath.Join(s.state, "known_hosts"))
	host, _ := os.ReadFile(key("host.pub"))
	if err != nil || !strings.Contains(string(b), strings.Fields(string(host))[1]) || !strings.Contains(string(b), "github.com ssh-ed25519 ") {
		t.Errorf("known hosts: %q, %v", b, err)
	}
	// Somebody else in its place is not trusted.
	stranger := strings.ReplaceAll(string(b), strings.Fields(string(host))[1], strings.Fields(string(b))[2])
	if err := os.WriteFile(filepath.Join(s.state, "known_hosts"), []byte(stranger), 0o600); err != nil {
		t.Fatal(err)
	}
	send(r.pages("main", 1)[0])
	if log := s.must("logs", "web"); !strings.Contains(log, "Host key verification failed") {
		t.Errorf("the host's key has changed:\n%s", log)
	}
}

// Git of another user shows that user's key, and knows hosts by the deployer's file, too.
func TestSSH_DeploysByAKeyOfAnotherUser(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 1)
	keys := tempDir(t)
	sshKey(t, filepath.Join(keys, "web"))
	sshKey(t, filepath.Join(keys, "host"))
	addr := sshd(t, filepath.Join(keys, "host"), filepath.Join(keys, "web.pub"))
	over := &repo{t: t, dir: fmt.Sprintf("ssh://root@%s%s", addr, r.dir)}
	s := newSite(t, pgtest.DSN(t),
		deployment{slug: "web", repository: "ada/web", remote: over, extra: fmt.Sprintf("user = %q\nkey = %q", other, filepath.Join(keys, "web"))})
	if got := s.command("config", "check"); got.code != 1 || !strings.Contains(got.stderr, "belongs to root, and git runs as "+other) {
		t.Errorf("with a key of root's: %+v", got)
	}
	own(t, filepath.Join(keys, "web"))
	p := s.start("serve")
	g := s.github(p.addr())
	d := push("ada/web", "main", commits[0])
	g.send(d)
	s.ends(d.id)
	s.live("web", commits[0])
	// Somebody else in the host's place is not trusted.
	host, err := os.ReadFile(filepath.Join(s.state, "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	ip, port, _ := net.SplitHostPort(addr)
	stranger := fmt.Sprintf("[%s]:%s ssh-ed25519 %s\n", ip, port, strings.Fields(string(host))[2])
	if err := os.WriteFile(filepath.Join(s.state, "known_hosts"), []byte(stranger), 0o644); err != nil {
		t.Fatal(err)
	}
	next := push("ada/web", "main", r.pages("main", 1)[0])
	g.send(next)
	s.ends(next.id)
	if log := s.must("logs", "web"); !strings.Contains(log, "Host key verification failed") {
		t.Errorf("the host's key is another:\n%s", log)
	}
}
