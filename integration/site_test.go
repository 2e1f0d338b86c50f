package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// site is its own host: a directory, a configuration, a database.
type site struct {
	t *testing.T
	// dir may be entered by every user, and listed by none other.
	dir, state, config, dsn string
	instance, secret        string
	// extra is put into the configuration, above the deployments.
	extra       string
	deployments []deployment
	// env is added to the environment of the program.
	env []string

	mu      sync.Mutex
	started int
	reader  *reader
}

// deployment is one of a site's.
type deployment struct {
	slug, repository, branch string
	remote                   *repo
	// path is where it is checked out; empty is a directory of the site.
	path string
	// extra holds further settings, a line each.
	extra string
	steps []step
}

type step struct {
	name    string
	run     []string
	timeout string
}

// script is a step that an operator wrote for a shell, in dir.
func script(name, text string) step { return step{name: name, run: []string{"sh", "-c", text}} }

// newSite makes a site; dsn may be empty for a private Postgres.
func newSite(t *testing.T, dsn string, deployments ...deployment) *site {
	t.Helper()
	dir := tempDir(t)
	s := &site{
		t: t, dir: dir, state: filepath.Join(dir, "state"), config: filepath.Join(dir, "deployer.toml"), dsn: dsn,
		instance: "test", secret: "a secret of " + t.Name(), deployments: deployments,
	}
	s.configure()
	return s
}

// tempDir is a directory that also other users can enter.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "durhack-integration-")
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
	return dir
}

// configure writes the configuration file; daemons read it when they start.
func (s *site) configure() {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(s.settings(s.secret)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) settings(secret string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "instance = %q\nstate_dir = %q\n", s.instance, s.state)
	if secret != "" {
		fmt.Fprintf(&b, "webhook_secret_token = %q\n", secret)
	}
	if s.dsn != "" {
		fmt.Fprintf(&b, "database_url = %q\n", s.dsn)
	}
	fmt.Fprintf(&b, "[listen]\nhost = \"127.0.0.1\"\nport = 0\n[admin]\nport = 0\n%s\n", s.extra)
	for _, d := range s.deployments {
		fmt.Fprintf(&b, "[deployments.%s]\nhandler = \"command\"\nrepository = %q\nbranch = %s\nremote = %q\npath = %q\n%s\n",
			d.slug, d.repository, tomlString(orMain(d.branch)), d.remote.dir, s.checkout(d), d.extra)
		for _, step := range d.steps {
			fmt.Fprintf(&b, "[[deployments.%s.steps]]\nname = %q\nrun = [", d.slug, step.name)
			for _, arg := range step.run {
				fmt.Fprintf(&b, "%s, ", tomlString(arg))
			}
			b.WriteString("]\n")
			if step.timeout != "" {
				fmt.Fprintf(&b, "timeout = %q\n", step.timeout)
			}
		}
	}
	return b.String()
}

func orMain(branch string) string {
	if branch == "" {
		return "main"
	}
	return branch
}

// tomlString quotes for TOML what %q would quote for Go.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r < ' ' || r == '"' || r == '\\' || r == 0x7f {
			fmt.Fprintf(&b, `\u%04X`, r)
		} else {
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// checkout is where a deployment is checked out.
func (s *site) checkout(d deployment) string {
	if d.path != "" {
		return d.path
	}
	return filepath.Join(s.dir, "www", d.slug)
}

// queueDir is the directory of a queue: of a deployment, or "main".
func (s *site) queueDir(name string) string { return filepath.Join(s.state, "queues", name) }

// queued lists the entries of a queue.
func (s *site) queued(name string) []string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.queueDir(name), "*.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return names
}

// environ is what every program gets: nothing of the developer's own settings.
func (s *site) environ() []string {
	own := append(gitEnv(), "HOME="+s.dir, "PATH="+os.Getenv("PATH"), "TMPDIR="+os.TempDir(), "TZ=UTC")
	return append(own, s.env...)
}

// result is what a command printed.
type result struct {
	code        int
	out, stderr string
}

// command runs a command of the program to its end.
func (s *site) command(args ...string) result {
	s.t.Helper()
	cmd := exec.Command(program, append([]string{"--config", s.config}, args...)...)
	cmd.Dir = s.dir
	cmd.Env = s.environ()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s: %v", args[0], err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// must runs a command that must succeed, and returns what it printed.
func (s *site) must(args ...string) string {
	s.t.Helper()
	r := s.command(args...)
	if r.code != 0 {
		s.t.Fatalf("%q: exit code %d\n%s%s", args, r.code, r.out, r.stderr)
	}
	return r.out
}

// noAddr is where nothing listens.
func noAddr() string {
	host, port := testkit.Address()
	return net.JoinHostPort(host, strconv.Itoa(port))
}
