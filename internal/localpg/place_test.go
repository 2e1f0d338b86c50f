package localpg_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
)

func TestOpen_PathsThatNoSocketCanHave(t *testing.T) {
	for name, part := range map[string]string{
		"long":       strings.Repeat("long/", 30),
		"characters": `it's a, "b" \c [d]*?`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t, identity{}), part, "pg")
			c := open(t, localpg.Config{Dir: dir})
			conn := connect(t, c.DSN("postgres"))
			sock := query[string](t, conn, "SELECT current_setting('unix_socket_directories')")
			t.Cleanup(func() { os.RemoveAll(sock) })
			if !strings.HasPrefix(sock, "/tmp/durhack-pg-") {
				t.Errorf("the socket is in %q", sock)
			}
			// Another process finds the same one, also with its own idea of a place for temporary files.
			t.Setenv("TMPDIR", "/nonexistent")
			u := open(t, localpg.Config{Dir: dir})
			if u.PID() != c.PID() || u.DSN("postgres") != c.DSN("postgres") {
				t.Error("another user got another cluster")
			}
			t.Setenv("TMPDIR", "")
			closeCluster(t, u)
			closeCluster(t, c)

			if _, err := os.Lstat(sock); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket's directory outlived the cluster: %v", err)
			}

			// A directory that others may enter is not trusted.
			if err := os.Mkdir(sock, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(sock, 0o755); err != nil { // whatever the umask
				t.Fatal(err)
			}
			refused(t, localpg.Config{Dir: dir}, sock, "is not a private directory")
			// Nor is something else in its place followed.
			if err := os.RemoveAll(sock); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(tempDir(t, identity{}), sock); err != nil {
				t.Fatal(err)
			}
			refused(t, localpg.Config{Dir: dir}, sock, "is not a private directory")
		})
	}
}

// refused expects that the cluster is not opened, for a reason that says all the words.
func refused(t *testing.T, cfg localpg.Config, words ...string) error {
	t.Helper()
	c, err := localpg.Open(testContext(t), cfg)
	if err == nil {
		closeCluster(t, c)
		t.Fatal("the cluster was opened")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	return err
}

func TestOpen_FilesInTheWayAreNotFollowed(t *testing.T) {
	target := filepath.Join(tempDir(t, identity{}), "precious")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := madeDir(t)
	for _, name := range []string{"start.lock", "users.lock", "postgres.log"} {
		for kind, put := range map[string]func(string, string) error{"symlink": os.Symlink, "link": os.Link} {
			t.Run(name+" "+kind, func(t *testing.T) {
				path := filepath.Join(dir, name)
				if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				if err := put(target, path); err != nil {
					t.Fatal(err)
				}
				refused(t, localpg.Config{Dir: dir}, path)
				var st unix.Stat_t
				if err := unix.Stat(target, &st); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(target); err != nil || string(b) != "precious" || int(st.Uid) != os.Geteuid() {
					t.Errorf("a file elsewhere was changed: %q, %v, owner %d", b, err, st.Uid)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestPrograms_AreMissing(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	repository := standIn(t, nil)
	cfg := localpg.Config{
		Dir:   filepath.Join(tempDir(t, identity{}), "pg"),
		Fetch: localpg.FetchConfig{URL: repository.URL, CacheDir: tempDir(t, identity{})},
	}
	localpg.SetSearchDirs(&cfg, "/nonexistent/*/bin")
	err := refused(t, cfg, "initdb and postgres", "/nonexistent/*/bin", "404", "apt-get install postgresql", "DATABASE_URL")
	if missing := new(localpg.NoProgramsError); !errors.As(err, &missing) || missing.Fetch == nil {
		t.Errorf("no NoProgramsError: %v", err)
	}
}

func TestPrograms_OfAnotherVersion(t *testing.T) {
	dir := madeDir(t)
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := programs(t)
	if strings.Contains(bin, "/16/") {
		t.Fatal("the test wants any version but 16")
	}
	refused(t, localpg.Config{Dir: dir, BinDir: bin}, bin, "made by Postgres 16", "apt-get install postgresql-16")
	t.Setenv("PATH", bin)
	cfg := localpg.Config{Dir: dir, Fetch: localpg.FetchConfig{URL: standIn(t, nil).URL, CacheDir: tempDir(t, identity{})}}
	localpg.SetSearchDirs(&cfg, bin)
	refused(t, cfg, "Postgres 16, which made this cluster", "apt-get install postgresql-16", "DATABASE_URL")
}

func TestOpen_SaysWhyTheServerCannotStart(t *testing.T) {
	dir := madeDir(t)
	if err := os.WriteFile(filepath.Join(dir, "data", "postgresql.conf"), []byte("no_such_setting = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, localpg.Config{Dir: dir}, "ended while starting", "no_such_setting")
}
