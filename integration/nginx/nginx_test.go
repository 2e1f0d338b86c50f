//go:build integration

package nginx_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestDeploy_SitesFollowTheRepository(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.push(map[string]string{
		"production/[a.test].nginxconf": s.server("a.test", "a1"), "production/[b.test].nginxconf": s.server("b.test", "b1"),
		"production/plain.nginxconf": s.server("plain.test", "plain"), "production/.gitkeep": "x", "production/README.md": "# Sites\n\nThey are live; do not touch.\n", "snippets/s.nginxconf": "add_header X-A b;\n",
	})
	s.mustDeploy(first)
	s.expect("a.test", "a1")
	s.expect("b.test", "b1")
	s.expect("plain.test", "plain")

	if out := s.mustDeploy(first); strings.Contains(out, "new workers") {
		t.Errorf("nothing has changed, and nginx was reloaded:\n%s", out)
	}
	// The files stand, but whether nginx took them is not known any more.
	if err := os.Remove(s.cfg.StateFile); err != nil {
		t.Fatal(err)
	}
	if out := s.mustDeploy(first); !strings.Contains(out, "new workers") || strings.Contains(out, "link ") {
		t.Errorf("nginx was not just reloaded:\n%s", out)
	}
	second := s.push(map[string]string{
		"production/[a.test].nginxconf": s.server("a.test", "a2"), "production/[b.test].nginxconf": "",
		"production/[b.test].nginxconf.disabled": s.server("b.test", "b2"),
	})
	s.mustDeploy(second)
	s.expect("a.test", "a2")
	s.expect("b.test", "nobody")
	if _, err := os.Stat(filepath.Join(s.cfg.ConfDir, "[b.test].nginxconf.disabled")); err != nil {
		t.Errorf("the disabled site has no link: %v", err)
	}
	s.mustDeploy(first)
	s.expect("a.test", "a1")
	s.expect("b.test", "b1")
}

func TestDeploy_BrokenSiteLeavesTheOldTreeAndItsFixGoesLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a1")}))
	broken := s.push(map[string]string{
		"production/[a.test].nginxconf": s.server("a.test", "a2"),
		"production/[b.test].nginxconf": "server { listen 127.0.0.1:1; nonsense on; }\n",
	})
	out, r := s.deploy(broken)
	if r.FailedStep != "test" || !strings.Contains(r.Err.Error(), `unknown directive "nonsense"`) || !strings.Contains(r.Err.Error(), "is back in place and serves") {
		t.Errorf("result %+v\n%s", r, out)
	}
	s.expect("a.test", "a1")
	if _, err := os.Lstat(filepath.Join(s.cfg.ConfDir, "[b.test].nginxconf")); err == nil {
		t.Error("the broken site's link is still there")
	}
	s.mustDeploy(s.push(map[string]string{"production/[b.test].nginxconf": s.server("b.test", "b")}))
	s.expect("a.test", "a2")
	s.expect("b.test", "b")
}

// pauser holds a run up when a step has ended.
type pauser struct {
	after     string
	at, until chan struct{}
}

func (p pauser) StepStarted(string) {}
func (p pauser) StepEnded(r handlers.StepResult) {
	if r.Name == p.after {
		close(p.at) // once: no step ends twice
		<-p.until
	}
}

// nginx -t reads the trees of all deployments.
func TestDeploy_WaitsForAnotherDeploymentOfTheHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a1")}))
	broken := s.deployer(s.push(map[string]string{"production/[a.test].nginxconf": "server { nonsense on; }\n"}))
	other := *s
	other.live = filepath.Join(s.dir, "other")
	other.cfg.Path, other.cfg.StateFile = other.live, filepath.Join(s.dir, "state/nginx/other.json")
	good := other.deployer(s.push(map[string]string{"production/[a.test].nginxconf": "", "production/[b.test].nginxconf": s.server("b.test", "b")}))

	at, until := make(chan struct{}), make(chan struct{})
	ends := make(chan handlers.Result, 2)
	go func() { ends <- broken.deploy(t.Context(), io.Discard, pauser{"switch", at, until}) }()
	<-at
	var out testkit.Buffer
	go func() { ends <- good.deploy(t.Context(), &out, nil) }()
	testkit.Wait(t, "the other deployment waits", func() bool { return strings.Contains(out.String(), "waiting for it") })
	close(until)
	if first, second := <-ends, <-ends; first.FailedStep != "test" || second.Err != nil {
		t.Errorf("the broken one: %+v; the other: %+v\n%s", first, second, out.String())
	}
	s.expect("a.test", "a1")
	s.expect("b.test", "b")
}

func TestDeploy_PortInUseIsSeenAndUndone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.cfg.ReloadWithin = 4e9
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a1")}))
	taken := newSite(t)
	out, r := s.deploy(s.push(map[string]string{"production/[a.test].nginxconf": taken.server("a.test", "a2")}))
	if r.FailedStep != "reload" || !strings.Contains(r.Err.Error(), "bind() to") || !strings.Contains(r.Err.Error(), "is back in place and serves") {
		t.Errorf("result %+v\n%s", r, out)
	}
	s.expect("a.test", "a1")
}

func TestDeploy_SaysWhereNginxDoesNotReadTheFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	conf, err := os.ReadFile(s.conf())
	if err != nil {
		t.Fatal(err)
	}
	s.file("nginx/nginx.conf", strings.Replace(string(conf), "*.nginxconf", "*.conf", 1))
	commit := s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a")})
	out, r := s.deploy(commit)
	if want := "add `include " + s.cfg.ConfDir + "/*.nginxconf;` to the http block"; r.FailedStep != "test" || !strings.Contains(r.Err.Error(), want) || s.links() != "" {
		t.Errorf("got %v, want %s\n%s", r.Err, want, out)
	}
	// It may find them by another way.
	if err := os.Symlink(s.cfg.ConfDir, filepath.Join(s.dir, "nginx/linked")); err != nil {
		t.Fatal(err)
	}
	s.file("nginx/nginx.conf", strings.Replace(string(conf), "/conf.d/*", "/./linked//*", 1))
	s.mustDeploy(commit)
	s.expect("a.test", "a")
}

func TestDeploy_DoesNotStartNginx(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a1")}))
	before, pid := s.links(), s.master()
	s.nginx("-s", "stop")
	testkit.Wait(t, "nginx has ended", func() bool { _, alive := process.ReadStat(pid); return !alive })
	commit := s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a2"), "production/[b.test].nginxconf": s.server("b.test", "b")})
	out, r := s.deploy(commit)
	if r.FailedStep != "reload" || !strings.Contains(r.Err.Error(), "nginx does not run") || s.links() != before {
		t.Errorf("%v; the links are\n%s\n%s", r.Err, s.links(), out)
	}
	s.nginx()
	testkit.Wait(t, "nginx has its pid file", func() bool { _, err := os.Stat(s.cfg.PIDFile); return err == nil })
	s.expect("a.test", "a1")
	s.mustDeploy(commit)
	s.expect("a.test", "a2")
}
