package process

import (
	"bytes"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestAsUser(t *testing.T) {
	t.Parallel()
	own, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", own.Username} {
		if as, err := AsUser(name, 0o027); err != nil || as != (As{Umask: 0o027}) {
			t.Errorf("%q: %+v, %v", name, as, err)
		}
	}
	// With an error nobody is root by mistake.
	as, err := AsUser("no-such-user", 0)
	if err == nil || (as.User != nil) != (os.Geteuid() == 0) || as.User != nil && (as.User.UID != nobody || len(as.User.Groups) > 0) {
		t.Errorf("a user that is not there: %+v, %v", as, err)
	}
	other := "daemon"
	if own.Username == other {
		other = "bin"
	}
	as, err = AsUser(other, 0)
	if os.Geteuid() != 0 {
		if !errors.As(err, new(*NotRootError)) || as != (As{}) {
			t.Errorf("another user: %+v, %v", as, err)
		}
		return
	}
	if err != nil || as.User == nil || as.User.UID == 0 || as.User.GID == 0 || as.User.Shell != fallbackShell {
		t.Fatalf("another user: %+v, %v", as.User, err)
	}
	if vars := as.User.Variables(); !slices.Contains(vars, "HOME="+as.User.Home) || !slices.Contains(vars, "LOGNAME="+other) {
		t.Errorf("variables %q", vars)
	}
}

// A umask is that of what runs with it, and of nothing beside it.
func TestAs_UmaskIsOfOneThread(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := modeOf(t, filepath.Join(dir, "before"))
	as := As{Umask: 0o077}
	var out bytes.Buffer
	c := sh("umask")
	c.As, c.Stdout = as, &out
	if err := Run(t.Context(), c); err != nil || strings.TrimSpace(out.String()) != "0077" {
		t.Errorf("a program says %q, %v", out.String(), err)
	}
	entered, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		leave := as.Enter()
		if mode := modeOf(t, filepath.Join(dir, "inside")); mode != 0o600 {
			t.Errorf("a file made inside has mode %v", mode)
		}
		if err := Outside(func() error {
			if mode := modeOf(t, filepath.Join(dir, "outside")); mode != before {
				t.Errorf("a file made outside has mode %v", mode)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		entered <- struct{}{}
		<-entered
		leave()
		if mode := modeOf(t, filepath.Join(dir, "left")); mode != before {
			t.Errorf("a file made afterwards has mode %v", mode)
		}
	}()
	<-entered
	for i := range 20 {
		go func() { time.Sleep(time.Microsecond) }() // other threads
		if mode := modeOf(t, filepath.Join(dir, strconv.Itoa(i))); mode != before {
			t.Errorf("a file made beside has mode %v", mode)
		}
	}
	entered <- struct{}{}
	<-done
}

func modeOf(t *testing.T, name string) os.FileMode {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		t.Error(err)
		return 0
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Error(err)
		return 0
	}
	return info.Mode().Perm()
}

func TestOnlyRoots(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("/usr", filepath.Join(dir, "link")), os.Mkdir(filepath.Join(dir, "open"), 0o777), os.Chmod(filepath.Join(dir, "open"), 0o777)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/": true, "/usr/lib": true, "/usr/not/there": true, "/tmp/not-there": false,
		filepath.Join(dir, "link", "x"): false, filepath.Join(dir, "open", "x"): false, dir: os.Geteuid() == 0,
	} {
		if got := onlyRoots(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}
