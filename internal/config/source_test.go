package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFilesOfADirectoryAreReadInOrderOfTheirNames(t *testing.T) {
	dir := t.TempDir()
	second := write(t, filepath.Join(dir, "20.toml"), "instance = \"second\"")
	first := write(t, filepath.Join(dir, "10.toml"), "instance = \"first\"\n[listen]\nport = 1")
	write(t, filepath.Join(dir, ".30.toml"), "instance = \"hidden\"")
	write(t, filepath.Join(dir, "40.toml~"), "instance = \"backup\"")
	write(t, filepath.Join(dir, "50.toml", "inner.toml"), "instance = \"nested\"")
	c, err := Load([]string{dir}, environment())
	if err != nil {
		t.Fatal(err)
	}
	if c.Instance != "second" || c.Listen.Port != 1 || !slices.Equal(c.Files, []string{first, second}) {
		t.Errorf("got %s", dump(c))
	}
	if c, err = Load([]string{dir, first}, environment()); err != nil || c.Instance != "first" {
		t.Errorf("a file named last does not win: %v, %v", c, err)
	}
}

func TestUnusualFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"carriage returns": "# a\r\n[listen]\r\nport = 7\r\n",
		"byte order mark":  "\xef\xbb\xbflisten.port = 7",
		"no line end":      "listen = {port = 7}",
	} {
		c, err := Load([]string{write(t, filepath.Join(dir, "a.toml"), content)}, environment())
		if err != nil || c.Listen.Port != 7 {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	for _, content := range []string{"", "\n", "# only a comment", "\xef\xbb\xbf"} {
		if c, err := Load([]string{write(t, filepath.Join(dir, "a.toml"), content)}, environment()); err != nil || len(c.Deployments) != 0 {
			t.Errorf("%q: %v, %v", content, c, err)
		}
	}
	_, err := Load([]string{write(t, filepath.Join(dir, "a.toml"), "# a\r\n[listen]\r\n  prot = 7\r\n")}, environment())
	if want := filepath.Join(dir, "a.toml") + `:3:3: unknown key "prot" in [listen]; did you mean "port"?`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestPathsThatCannotBeLoaded(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop.toml")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	write(t, filepath.Join(empty, "README"), "")
	missing := filepath.Join(dir, "missing.toml")
	wrong := write(t, filepath.Join(dir, "wrong.toml"), "orgin = 1\n[deployments.web]")
	broken := write(t, filepath.Join(dir, "broken.toml"), "origin =")
	huge := write(t, filepath.Join(dir, "huge.toml"), strings.Repeat("#", maxFile+1))
	for _, test := range []struct {
		paths []string
		want  string
	}{
		{nil, "there is no configuration: no --config was given, and neither /etc/durhack-deployer nor ./config has a *.toml file; write /etc/durhack-deployer/deployer.toml, or name a file or a directory with --config"},
		{[]string{empty}, empty + ": this directory has no *.toml file; name a file, or a directory with one"},
		{[]string{missing}, missing + ": there is no such file; check the path given with --config"},
		{[]string{loop}, loop + ": too many levels of symbolic links"},
		{[]string{huge}, huge + ": this file is larger than 1024 KiB, which no configuration is"},
		// What is missing is not told while a file could not be read: it may be there.
		{[]string{wrong, broken, missing}, wrong + ":1:1: unknown key \"orgin\" at the top level; did you mean \"origin\"?\n" +
			broken + ":1:8: expected value, not end of input\n" + missing + ": there is no such file; check the path given with --config"},
		{[]string{broken, broken}, broken + ":1:8: expected value, not end of input"},
	} {
		_, err := Load(test.paths, environment())
		var all *Errors
		if !errors.As(err, &all) || err.Error() != test.want {
			t.Errorf("%q: got\n%v\nwant\n%s", test.paths, err, test.want)
		}
	}
}

// unprivileged runs f as a user who may read nothing of root's: the thread's
// file system user is changed, and the thread ends with its goroutine.
func unprivileged(t *testing.T, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				t.Errorf("setfsuid: %v", err)
				return
			}
		}
		f()
	}()
	<-done
}

func TestPermissionDenied(t *testing.T) {
	dir := t.TempDir()
	secret := write(t, filepath.Join(dir, "secret"), "hunter2")
	closed := write(t, filepath.Join(dir, "closed.toml"), "instance = \"a\"")
	open := write(t, filepath.Join(dir, "open.toml"), "webhook_secret_file = \""+secret+"\"")
	for path, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, dir: 0o755, open: 0o644, secret: 0, closed: 0} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		closed: closed + ": permission denied; let the user that runs durhack-deployer read it",
		open:   open + ":1:1: webhook_secret_file \"" + secret + "\" cannot be used: permission denied; let the user that runs durhack-deployer read it, or pass it as a systemd credential",
	} {
		var err error
		unprivileged(t, func() { _, err = Load([]string{path}, environment()) })
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestSecretsComeFromThreePlacesAtOnce(t *testing.T) {
	dir := t.TempDir()
	first := write(t, filepath.Join(dir, "first"), "in a file\r\n")
	second := write(t, filepath.Join(dir, "second"), " in another \n\n")
	write(t, filepath.Join(dir, "webhook_secret"), "a credential\n")
	config := "webhook_secret_token = [\"written\", \"written\", \"in a file\"]\nwebhook_secret_file = [\"" + first + "\", \"" + second + "\"]"
	c, err := parse(environment("CREDENTIALS_DIRECTORY", dir), config)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Secret{"written", "in a file", " in another ", "a credential"}; !slices.Equal(c.Secrets, want) {
		t.Errorf("got %d secrets, want %d", len(c.Secrets), len(want))
	}
	if c, err = parse(environment("CREDENTIALS_DIRECTORY", t.TempDir())); err != nil || len(c.Secrets) != 0 {
		t.Errorf("a directory without the credential: %v, %v", c, err)
	}
	write(t, filepath.Join(dir, "webhook_secret"), " \n")
	_, err = parse(environment("CREDENTIALS_DIRECTORY", dir))
	if want := `the systemd credential "` + dir + `/webhook_secret" cannot be used: it is empty`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	write(t, first, "\n\n")
	_, err = parse(environment(), `webhook_secret_file = "`+first+`"`)
	if want := `a.toml:1:1: webhook_secret_file "` + first + `" cannot be used: it is empty`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSecretsThatHoldMoreThanTheSecretAreWarnedOf(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]string{
		"s3cret":         "",
		"s3cret\r\n":     "",
		"s3cret \n":      "begins or ends with a blank",
		"\ts3cret":       "begins or ends with a blank",
		"s3cret\u00a0":   "begins or ends with a blank",
		"\uFEFFs3cret\n": "begins with a byte order mark",
		"s3cret\nold\n":  "has more than one line",
		"s3cret\r\nold":  "has more than one line",
	} {
		file := write(t, filepath.Join(dir, "webhook_secret"), content)
		for what, load := range map[string]func() (*Config, error){
			`a.toml:1: webhook_secret_file "` + file + `" `: func() (*Config, error) { return parse(environment(), `webhook_secret_file = "`+file+`"`) },
			`the systemd credential "` + file + `" `:        func() (*Config, error) { return parse(environment("CREDENTIALS_DIRECTORY", dir)) },
		} {
			c, err := load()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range c.Warnings {
				got = append(got, w.String())
			}
			if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], what+want)) {
				t.Errorf("%q: warnings are %q, want %q", content, got, what+want)
			}
		}
	}
	if c := mustParse(t, `webhook_secret_token = ["right", "blank "]`); len(c.Warnings) != 1 || c.Warnings[0].Line != 1 {
		t.Errorf("tokens: warnings are %q, want one", c.Warnings)
	}
}

func TestSecret_PipeDoesNotHang(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := thisHost().readSecretFile(pipe); err == nil || err.Error() != "it is not a regular file" {
		t.Errorf("got %v", err)
	}
}

func TestDatabaseURLOfTheEnvironment(t *testing.T) {
	const url = "postgres://u:hunter2@db.example.com/log"
	for _, test := range []struct{ config, env, want, source string }{
		{"", "", "", "default"},
		{"", url, url, "environment"},
		{`database_url = "postgres://localhost/a"`, url, "postgres://localhost/a", "file"},
		{`database_url = ""`, url, "", "file"},
		{"", "postgresql+psycopg://localhost/a", "postgresql://localhost/a", "environment"},
	} {
		c, err := parse(environment("DATABASE_URL", test.env), test.config)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(c.Origins(), func(v Value) bool { return v.Key == "database_url" })
		if c.DatabaseURL != test.want || i < 0 || c.Origins()[i].Source != test.source {
			t.Errorf("%q with DATABASE_URL=%q: %q, %v", test.config, test.env, c.DatabaseURL, c.Origins())
		}
	}
	_, err := parse(environment("DATABASE_URL", "postgres://u:hunter2@[/"), "")
	if want := `DATABASE_URL is not a Postgres connection string; write it like "postgres://user:password@host:5432/database"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDefaultsOfTheHost(t *testing.T) {
	build := func(on host, pairs ...string) *Config {
		c, problems := build(nil, nil, environment(pairs...), on)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return c
	}
	on := testHost()
	for hostname, want := range map[string]string{
		"box": "box", "b\u00fccher.example": "b-cher.example", "-a b": "a-b", "": "localhost", "...": "localhost", strings.Repeat("x", 70): strings.Repeat("x", 64),
	} {
		on.name = func() (string, error) { return hostname, nil }
		if got := build(on).Instance; got != want {
			t.Errorf("hostname %q: instance %q, want %q", hostname, got, want)
		}
	}
	on.name = func() (string, error) { return "", errors.New("no name") }
	if got := build(on).Instance; got != "localhost" {
		t.Errorf("no hostname: instance %q", got)
	}

	const system = "/var/lib/durhack-deployer"
	if got := build(on, "XDG_STATE_HOME", "/x").StateDir; got != "/x/durhack-deployer" {
		t.Errorf("state directory %q", got)
	}
	if got := build(on, "XDG_STATE_HOME", "relative").StateDir; got != "/home/someone/.local/state/durhack-deployer" {
		t.Errorf("state directory %q", got)
	}
	if got := build(on, "STATE_DIRECTORY", "/s/", "XDG_STATE_HOME", "/x").StateDir; got != "/s" {
		t.Errorf("state directory %q", got)
	}
	if _, problems := newBuild(on, "HOME", ""); len(problems) != 1 || problems[0].Key != "state_dir" {
		t.Errorf("no home: %v", problems)
	}
	writable := on
	writable.writable = func(dir string) bool { return dir == system }
	if got := build(writable).StateDir; got != system {
		t.Errorf("writable: state directory %q", got)
	}
	root := on
	root.root = true
	if got := build(root, "HOME", "/root").StateDir; got != system {
		t.Errorf("root: state directory %q", got)
	}
}

func newBuild(on host, pairs ...string) (*Config, []*Error) {
	return build(nil, nil, environment(pairs...), on)
}

func TestUnknownKeys_OnlySoManyAreReported(t *testing.T) {
	_, err := parse(environment(), strings.Repeat("[[deployments.web.sites]]\nx = 1\n", 2*maxUnknown))
	var all *Errors
	if !errors.As(err, &all) {
		t.Fatalf("error is %v", err)
	}
	unknown := 0
	for _, e := range all.List {
		if strings.HasPrefix(e.Message, "unknown key") {
			unknown++
		}
	}
	if unknown != maxUnknown {
		t.Errorf("%d unknown keys are reported, want %d", unknown, maxUnknown)
	}
}

func TestDefaultPaths(t *testing.T) {
	etc, local := filepath.Join(t.TempDir(), "etc"), filepath.Join(t.TempDir(), "config")
	check := func(want ...string) {
		t.Helper()
		if got := defaultPaths(etc, local); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check()
	write(t, filepath.Join(etc, "README"), "")
	check()
	write(t, filepath.Join(local, "a.toml"), "")
	check(local)
	write(t, filepath.Join(etc, "a.toml"), "")
	check(etc)
	if err := os.Chmod(etc, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // an ordinary user could not remove it otherwise
		if err := os.Chmod(etc, 0o755); err != nil {
			t.Error(err)
		}
	})
	unprivileged(t, func() { check(etc) })
}
