//go:build integration

package nginx_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const longValid = 90 * 24 * time.Hour

func (s *site) expectNames(host string, want ...string) {
	s.Helper()
	if got := slices.Sorted(slices.Values(s.served(host).DNSNames)); !slices.Equal(got, want) {
		s.Errorf("%s is served with a certificate for %q, want %q", host, got, want)
	}
}

func TestCertificate_IssuedServedAndExtended(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.startCA(longValid)
	s.certify(c)
	first := s.push(map[string]string{
		"production/[a.test].nginxconf":            s.tlsServer("a.test", "a1", "a.test", "www.a.test", "_", "*.a.test"),
		"production/[off.test].nginxconf.disabled": s.tlsServer("off.test", "off", "off.test"),
	})
	out := s.mustDeploy(first)
	if !strings.Contains(out, `no certificate is asked for the names ["*.a.test" "_"]`) {
		t.Errorf("the run log does not tell what was left out:\n%s", out)
	}
	s.expectNames("a.test", "a.test", "www.a.test")
	s.expect("a.test", "a1")
	if n := c.orders.Load(); n != 1 {
		t.Errorf("%d orders", n)
	}
	if out := s.mustDeploy(first); strings.Contains(out, "debug log") {
		t.Errorf("nothing has changed, and certbot was run:\n%s", out)
	}
	// Other content, the same names: the CA is not asked.
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a2", "a.test", "www.a.test")}))
	s.expect("a.test", "a2")
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a2", "a.test")}))
	s.expectNames("a.test", "a.test", "www.a.test")
	if n := c.orders.Load(); n != 1 {
		t.Errorf("%d orders, though no name is missing", n)
	}
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a3", "a.test", "new.a.test")}))
	s.expectNames("new.a.test", "a.test", "new.a.test")
	s.expect("a.test", "a3")
}

func TestCertificate_RefusalsAreToldAndLeaveTheOldTree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.startCA(longValid)
	s.certify(c)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a1", "a.test")}))

	refused := func(why string, files map[string]string) {
		t.Helper()
		files["production/[a.test].nginxconf"] = s.tlsServer("a.test", "a2", "a.test")
		out, r := s.deploy(s.push(files))
		if r.FailedStep != "certificates" || !strings.Contains(r.Err.Error(), why) {
			t.Errorf("want %s; got %v\n%s", why, r.Err, out)
		}
		s.expect("a.test", "a1")
	}
	refused("rejectedIdentifier", map[string]string{"production/[blocked.test].nginxconf": s.tlsServer("blocked.test", "x", "blocked.test")})
	refused("none of its names can be asked for over HTTP", map[string]string{
		"production/[blocked.test].nginxconf": "", "production/[wild.test].nginxconf": s.tlsServer("wild.test", "x", "*.wild.test"),
	})
	_ = c.pebble.Process.Kill()
	refused("the certificate of b.test", map[string]string{
		"production/[wild.test].nginxconf": "", "production/[b.test].nginxconf": s.tlsServer("b.test", "b1", "b.test"),
	})
}

func TestCertificate_RateLimitIsRememberedAndTheOthersGoLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.startCA(longValid)
	s.certify(c)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a1", "a.test")}))
	after := "7200"
	c.limited.Store(&after)
	asked := c.orders.Load()
	out, r := s.deploy(s.push(map[string]string{
		"production/[a.test].nginxconf": s.tlsServer("a.test", "a2", "a.test"), "production/[b.test].nginxconf": s.tlsServer("b.test", "b1", "b.test"),
	}))
	if r.FailedStep != "certificates" || !strings.Contains(r.Err.Error(), "rateLimited: too many certificates (5) already issued") ||
		!strings.Contains(r.Err.Error(), "not before "+time.Now().Add(2*time.Hour).UTC().Format("2006-01-02T15:")) {
		t.Errorf("got %v\n%s", r.Err, out)
	}
	s.expect("a.test", "a1")
	if n := c.orders.Load() - asked; n != 1 {
		t.Errorf("%d orders", n)
	}
	c.limited.Store(nil)
	out, r = s.deploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a3", "a.test")}))
	if r.FailedStep != "finish" || !strings.Contains(r.Err.Error(), "b.test was left as it was") {
		t.Errorf("got %v\n%s", r.Err, out)
	}
	s.expect("a.test", "a3")
	s.expect("b.test", "nobody")
	if n := c.orders.Load() - asked; n != 1 {
		t.Errorf("%d orders: the CA was asked again", n)
	}
	// certbot's log still has the limit: it is not the answer to the next question.
	_ = c.pebble.Process.Kill()
	out, r = s.deploy(s.push(map[string]string{"production/[b.test].nginxconf": "", "production/[c.test].nginxconf": s.tlsServer("c.test", "c1", "c.test")}))
	if r.FailedStep != "certificates" || strings.Contains(r.Err.Error(), "rateLimited") {
		t.Errorf("got %v\n%s", r.Err, out)
	}
}

func TestCertificate_DueOneIsOnlyAWarning(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.startCA(48 * time.Hour)
	s.certify(c)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a1", "a.test")}))
	serial := s.served("a.test").SerialNumber
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a2", "a.test")}))
	if s.served("a.test").SerialNumber.Cmp(serial) == 0 {
		t.Error("the certificate that is due was not renewed")
	}
	_ = c.pebble.Process.Kill()
	out := s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a3", "a.test")}))
	if !strings.Contains(out, "warning: ") {
		t.Errorf("no warning in\n%s", out)
	}
	s.expect("a.test", "a3")
}

// certbot's own plugin, which needs what is live to be valid: a site that breaks is put
// back, so that its fix can have its certificate.
func TestCertificate_ByThePluginAfterABrokenSite(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.startCA(longValid)
	s.certify(c)
	s.certificates.Authenticator = "nginx"
	s.certificates.Command = append(s.certificates.Command, "--http-01-port", strconv.Itoa(s.port), "--nginx-server-root", filepath.Join(s.dir, "nginx"), "--nginx-ctl", "/usr/sbin/nginx")
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.tlsServer("a.test", "a1", "a.test")}))
	s.expectNames("a.test", "a.test")
	if out, r := s.deploy(s.push(map[string]string{"production/[b.test].nginxconf": "nonsense;\n"})); r.FailedStep != "test" {
		t.Errorf("%v\n%s", r.Err, out)
	}
	s.mustDeploy(s.push(map[string]string{"production/[b.test].nginxconf": s.tlsServer("b.test", "b1", "b.test")}))
	s.expectNames("b.test", "b.test")
	s.expect("a.test", "a1")
}
