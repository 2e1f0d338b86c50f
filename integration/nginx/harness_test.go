//go:build integration

// Package nginx_test tests the handler nginx with the real nginx, and the real certbot
// against a CA on this machine.
package nginx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/nginx"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// With this in the environment the test binary is a deployer that deploys once.
const deployerEnv = "NGINX_TEST_DEPLOYER"

// deployer is what such a process deploys.
type deployer struct {
	Config nginx.Config
	Rules  helper.Rules
	Job    handlers.Job
}

func TestMain(m *testing.M) {
	if text := os.Getenv(deployerEnv); text != "" {
		var d deployer
		err := json.Unmarshal([]byte(text), &d)
		if err == nil {
			err = d.deploy(context.Background(), os.Stdout, nil).Err
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	status := testkit.MainNoLeaks(m)
	_ = os.RemoveAll(pebbleDir())
	os.Exit(status)
}

// deploy runs the whole plan.
func (d deployer) deploy(ctx context.Context, out io.Writer, rep handlers.Reporter) handlers.Result {
	plan, err := nginx.New(d.Config).Plan(ctx, d.Job)
	if err != nil {
		return handlers.Result{Err: err}
	}
	return handlers.Execute(ctx, plan, handlers.Env{
		Out: out, Vars: handlers.Environment(d.Job, nil, nil), Root: here{helper.Here{Rules: d.Rules}}, Job: d.Job,
	}, rep)
}

// site is a repository of site files, and an nginx of the test's own that serves them.
type site struct {
	*testing.T
	dir, repo, remote, live string
	loopback                string
	port, tlsPort           int
	cfg                     nginx.Config
	certificates            helper.Certificates
	n                       int
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{T: t, dir: dir, repo: filepath.Join(dir, "repo"), remote: filepath.Join(dir, "remote.git"), live: filepath.Join(dir, "live")}
	s.loopback, s.port = testkit.Address()
	_, s.tlsPort = testkit.Address()
	for _, d := range []string{"nginx/conf.d", "nginx/snippets", "log", "tmp", "repo/production", "repo/snippets", "webroot", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var conf strings.Builder
	if os.Getuid() == 0 {
		conf.WriteString("user root;\n") // the test's directories are its user's alone
	}
	fmt.Fprintf(&conf, "pid %[1]s/nginx.pid;\nerror_log %[1]s/log/error.log;\nworker_processes 1;\nevents { worker_connections 64; }\nhttp {\n\taccess_log %[1]s/log/access.log;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&conf, "\t%s_temp_path %s/tmp/%[1]s;\n", kind, dir)
	}
	fmt.Fprintf(&conf, "\tserver { listen %s:%d default_server; location /.well-known/acme-challenge/ { root %s/webroot; } location / { return 404 nobody; } }\n", s.loopback, s.port, dir)
	fmt.Fprintf(&conf, "\tinclude %s/nginx/conf.d/*.nginxconf;\n}\n", dir)
	s.file("nginx/nginx.conf", conf.String())
	testkit.Git(t, dir, "init", "--quiet", "--bare", s.remote)
	testkit.Git(t, dir, "init", "--quiet", s.repo)
	s.cfg = nginx.Config{
		Source:  source.Source{Path: s.live, Remote: s.remote},
		Rules:   []nginx.Rule{{Include: true, Select: []string{"*"}}},
		ConfDir: filepath.Join(dir, "nginx/conf.d"), SnippetsDir: filepath.Join(dir, "nginx/snippets"),
		Production: "production", Snippets: "snippets", LocalLive: "local-live", Unit: "nginx", PIDFile: filepath.Join(dir, "nginx.pid"),
		IncludePaths: []string{filepath.Join(dir, "nginx")}, LogPaths: []string{filepath.Join(dir, "log")},
		StateFile: filepath.Join(dir, "state/nginx/site.json"), Certificates: nginx.Certificates{Authenticator: nginx.AuthenticatorNone, Directory: filepath.Join(dir, "le")},
	}
	s.nginx()
	t.Cleanup(func() {
		pid := s.master()
		s.nginx("-s", "stop")
		testkit.Wait(t, "nginx has ended", func() bool { _, alive := process.ReadStat(pid); return !alive })
	})
	testkit.Wait(t, "nginx has its pid file", func() bool { _, err := os.Stat(s.cfg.PIDFile); return err == nil })
	return s
}

// nginx runs the program, which starts it where there are no arguments.
func (s *site) nginx(args ...string) {
	s.Helper()
	if out, err := exec.Command("nginx", append([]string{"-c", s.conf()}, args...)...).CombinedOutput(); err != nil {
		s.Fatalf("nginx %q: %v\n%s", args, err, out)
	}
}

func (s *site) conf() string { return filepath.Join(s.dir, "nginx/nginx.conf") }

func (s *site) master() int {
	s.Helper()
	text, err := os.ReadFile(s.cfg.PIDFile)
	if err != nil {
		s.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.Fatal(err)
	}
	return pid
}

func (s *site) file(name, text string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// push commits these files (an empty text removes one) and returns the commit.
func (s *site) push(files map[string]string) string {
	s.Helper()
	for name, text := range files {
		full := filepath.Join(s.repo, name)
		if text == "" {
			if err := os.Remove(full); err != nil {
				s.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			s.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			s.Fatal(err)
		}
	}
	testkit.Git(s.T, s.repo, "add", "--all")
	testkit.Git(s.T, s.repo, "commit", "--quiet", "--allow-empty", "-m", "change")
	testkit.Git(s.T, s.repo, "push", "--quiet", "--force", s.remote, "HEAD:refs/heads/main")
	return testkit.Git(s.T, s.repo, "rev-parse", "HEAD")
}

// deployer deploys a commit of the site.
func (s *site) deployer(commit string) deployer {
	s.n++
	return deployer{s.cfg, s.rules(), handlers.Job{Deployment: "nginx", DeliveryID: fmt.Sprint("d", s.n), Attempt: 1, Branch: "main", Commit: commit, Path: s.live}}
}

// deploy runs the whole plan, and returns what it wrote.
func (s *site) deploy(commit string) (string, handlers.Result) {
	s.Helper()
	var out bytes.Buffer
	r := s.deployer(commit).deploy(s.Context(), &out, nil)
	return out.String(), r
}

func (s *site) mustDeploy(commit string) string {
	s.Helper()
	out, r := s.deploy(commit)
	if r.Err != nil {
		s.Fatalf("%v\n%s", r.Err, out)
	}
	return out
}

// get asks nginx for the host's root page.
func (s *site) get(host string) string {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, fmt.Sprintf("http://%s:%d/", s.loopback, s.port), nil)
	if err != nil {
		s.Fatal(err)
	}
	req.Host, req.Close = host, true
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return string(body)
}

func (s *site) expect(host, want string) {
	s.Helper()
	if got := s.get(host); got != want {
		s.Errorf("%s answers %q, want %q", host, got, want)
	}
}

// server is a site file that answers with a text.
func (s *site) server(host, text string) string {
	return fmt.Sprintf("server {\n    listen %s:%d;\n    server_name %s;\n    location / { return 200 %q; }\n}\n", s.loopback, s.port, host, text)
}

// here does what root would do, as the test's user.
type here struct{ helper.Here }

func (h here) Call(ctx context.Context, _ handlers.Job, out io.Writer, verb string, args ...string) error {
	return h.Here.Call(ctx, helper.Request{Verb: verb, Args: args}, out)
}

func (s *site) rules() helper.Rules {
	return helper.Rules{
		Nginx:        helper.Nginx{Signal: true, Command: []string{"/usr/sbin/nginx", "-c", s.conf()}, ErrorLog: filepath.Join(s.dir, "log/error.log")},
		Certificates: s.certificates,
	}
}

func nginxRule(include bool, site string) nginx.Rule {
	return nginx.Rule{Include: include, Select: []string{site}}
}
