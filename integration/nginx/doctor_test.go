//go:build integration

package nginx_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// findings is what doctor says of certificates, and of paths what fails.
func (s *site) findings() string {
	s.Helper()
	s.file("deployer.toml", fmt.Sprintf(`
state_dir = "%[1]s/state"
database_url = "postgres://127.0.0.1:1/none"
webhook_secret_token = "0123456789abcdefghijklmnopqrstuv"
[deployments.nginx]
repository = "o/nginx"
branch = "main"
remote = "%[1]s/remote.git"
path = "%[1]s/live"
sites = [{ rule = "include", select = ["*"] }]
conf_dir = "%[1]s/nginx/conf.d"
snippets_dir = "%[1]s/nginx/snippets"
pid_file = "%[1]s/nginx.pid"
log_paths = ["%[1]s/log"]
nginx = ["/usr/sbin/nginx", "-c", "%[1]s/nginx/nginx.conf"]
certbot = ["/usr/bin/certbot", "--config-dir", "%[1]s/le"]
certificates = "none"
`, s.dir))
	cfg, err := config.Load([]string{filepath.Join(s.dir, "deployer.toml")}, func(string) string { return "" })
	if err != nil {
		s.Fatal(err)
	}
	var said []string
	err = check.Doctor(s.Context(), cfg, slog.New(slog.DiscardHandler), func(f check.Finding) {
		if f.Check == "certificates" || f.Check == "paths" && f.Level == check.Fail {
			said = append(said, string(f.Level)+" "+f.Text)
		}
	})
	if err != nil {
		s.Fatal(err)
	}
	return strings.Join(said, "\n")
}

// keep puts a certificate where certbot would.
func (s *site) keep(validity time.Duration) string {
	s.Helper()
	dir := filepath.Join(s.dir, "le/live/a.test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.Fatal(err)
	}
	pair := selfSigned(s.T, dir, validity)
	for from, to := range map[string]string{"cert.pem": "fullchain.pem", "key.pem": "privkey.pem"} {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			s.Fatal(err)
		}
	}
	return pair.Leaf.NotAfter.UTC().Format(time.RFC3339)
}

func TestDoctor_TellsWhereNoLinksCanBeMade(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if err := os.Remove(s.cfg.SnippetsDir); err != nil { // which is not needed
		t.Fatal(err)
	}
	if got := s.findings(); got != "" {
		t.Errorf("doctor says %s", got)
	}
	if err := os.Remove(s.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	if got, want := s.findings(), "fail nginx: "+s.cfg.ConfDir+" cannot be written by this user: no such file or directory"; got != want {
		t.Errorf("doctor says %s, want %s", got, want)
	}
}

func TestDoctor_ComparesWhatIsServedWithTheFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// An old worker may answer for a moment after a reload.
	says := func(want string) {
		t.Helper()
		testkit.Wait(t, "doctor says "+want, func() bool { return s.findings() == want })
	}
	says("")
	first := s.keep(60 * 24 * time.Hour)
	s.mustDeploy(s.push(map[string]string{
		"production/[a.test].nginxconf":            s.tlsServer("a.test", "a", "a.test"),
		"production/[off.test].nginxconf.disabled": s.tlsServer("off.test", "off", "off.test"),
	}))
	says("ok 1 certificate served as in the files")
	renewed := s.keep(90 * 24 * time.Hour)
	says("warn nginx: a.test is served with a certificate that ends at " + first + ", and that in its file, which ends at " + renewed + ", is another one")
	s.nginx("-s", "reload")
	says("ok 1 certificate served as in the files")
	soon := s.keep(24 * time.Hour)
	s.nginx("-s", "reload")
	says("warn nginx: a.test is served with a certificate that ends at " + soon)
	over := s.keep(-time.Minute)
	s.nginx("-s", "reload")
	says("fail nginx: a.test is served with a certificate that ended at " + over)
	if err := os.Rename(filepath.Join(s.dir, "le/live"), filepath.Join(s.dir, "le/gone")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, "le/live/a.test/fullchain.pem")
	says("fail nginx: " + file + ", which [a.test].nginxconf names, is not there\nfail nginx: a.test is served with a certificate that ended at " + over)
	if err := os.Rename(filepath.Join(s.dir, "le/gone"), filepath.Join(s.dir, "le/live")); err != nil { // nginx reads it to stop
		t.Fatal(err)
	}
	s.nginx("-s", "stop")
	at := fmt.Sprintf("%s:%d", s.loopback, s.tlsPort)
	says("fail nginx: a.test gives no certificate at " + at + ": dial tcp " + at + ": connect: connection refused")
	s.nginx()
}
