package localpg_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
)

// What only root can meet is tested in full where root runs the tests; an
// ordinary user meets, of each test here, the half that concerns it.

func TestOwner_DirectoryThatItCannotReach(t *testing.T) {
	blocked := filepath.Join(tempDir(t, identity{}), "closed")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(blocked, "below", "pg")
	if os.Geteuid() != 0 {
		closeCluster(t, open(t, localpg.Config{Dir: dir})) // its own user is let in
		return
	}
	err := refused(t, localpg.Config{Dir: dir}, blocked, "chmod o+x "+blocked, "DATABASE_URL")
	if b := new(localpg.BlockedError); !errors.As(err, &b) || b.Parent != blocked {
		t.Errorf("the error blames another directory: %v", err)
	}
	// Having done what it says is enough.
	if err := os.Chmod(blocked, 0o711); err != nil {
		t.Fatal(err)
	}
	closeCluster(t, open(t, localpg.Config{Dir: dir}))
}

func TestOwner_DirectoryOfSomebodyElse(t *testing.T) {
	for _, id := range identities(t) {
		if id.cred == nil {
			continue
		}
		dir := madeDir(t) // of the user postgres, or the user that root's clusters run as
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid == id.cred.Uid {
			id.cred.Uid = 12345
		}
		u := play(t, id, "user", dir)
		said, err := u.end()
		if err == nil || !strings.Contains(said, "belongs to") || !strings.Contains(said, "as root") {
			t.Errorf("another user is told %q (%v)", said, err)
		}
	}
	dir := tempDir(t, identity{})
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		refused(t, localpg.Config{Dir: dir}, "thesis.tex")
		if uid := uidOf(t, dir); uid != 0 {
			t.Errorf("root's directory was given to user %d", uid)
		}
	}
}

func uidOf(t *testing.T, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

// The directory keeps others out; were it opened by mistake, the server still
// knows by the kernel who is at the socket.
func TestPostgres_OthersCannotConnect(t *testing.T) {
	dir := madeDir(t)
	c := open(t, localpg.Config{Dir: dir})
	if err := pingAs(t, identity{}, c.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	for _, id := range identities(t) {
		if id.cred == nil {
			continue
		}
		if err := pingAs(t, id, c.DSN("postgres")); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("another user at a closed directory: %v", err)
		}
		for path, mode := range map[string]os.FileMode{dir: 0o755, filepath.Join(dir, "run"): 0o755, filepath.Join(dir, "run", ".s.PGSQL.5432"): 0o777} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := pingAs(t, id, c.DSN("postgres")); err == nil || !strings.Contains(err.Error(), "Peer authentication failed") {
			t.Errorf("another user at an open directory: %v", err)
		}
		// Not under another name either.
		if err := pingAs(t, id, c.DSN("postgres")+" user=nobody"); err == nil {
			t.Error("another user has got in under its own name")
		}
	}
	// Nor is there any role but the one.
	if n := query[int](t, connect(t, c.DSN("postgres")), "SELECT count(*) FROM pg_roles WHERE rolcanlogin"); n != 1 {
		t.Errorf("%d roles can log in", n)
	}
}

func pingAs(t *testing.T, id identity, dsn string) error {
	t.Helper()
	said, err := play(t, id, "connect", dsn).end()
	if err != nil {
		return errors.New(said)
	}
	return nil
}
