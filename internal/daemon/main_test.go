package daemon

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

const (
	patience = 60 * time.Second
	secret   = "it is a secret to everybody"
)

var quiet = slog.New(slog.DiscardHandler)

// site is a configuration with what it names.
type site struct {
	t      testing.TB
	dir    string
	cfg    *config.Config
	commit string
}

// newSite makes a remote with one commit and a configuration of one deployment
// of it, on the database. extra is more of the configuration.
func newSite(t testing.TB, dsn, extra string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	s.git(s.dir, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
	s.git(s.dir, "clone", "--quiet", "remote.git", "pusher")
	pusher := filepath.Join(s.dir, "pusher")
	s.git(pusher, "commit", "--quiet", "--allow-empty", "-m", "first")
	s.git(pusher, "push", "--quiet", "origin", "HEAD:refs/heads/main")
	s.commit = s.git(pusher, "rev-parse", "HEAD")
	s.cfg = load(t, s.dir, fmt.Sprintf(`
instance = "test"
state_dir = %q
database_url = %q
webhook_secret_token = %q
[listen]
host = "127.0.0.1"
port = 0
[admin]
port = 0
[deployments.web]
repository = "o/web"
enabled = true
branch = "main"
remote = %q
path = %q
[[deployments.web.steps]]
name = "build"
run = ["true"]
%s`, filepath.Join(s.dir, "state"), dsn, secret, filepath.Join(s.dir, "remote.git"), filepath.Join(s.dir, "live"), extra))
	return s
}

func load(t testing.TB, dir, text string) *config.Config {
	t.Helper()
	cfg, err := tryLoad(t, dir, text)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func tryLoad(t testing.TB, dir, text string) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load([]string{path}, func(string) string { return "" })
}

func (s *site) git(dir string, args ...string) string {
	s.t.Helper()
	return testkit.Git(s.t, dir, args...)
}

// daemon is a Run that is under way.
type daemon struct {
	addr net.Addr // of the listener, once it listens
	out  *testkit.Buffer
	stop func() error
}

// run starts a daemon, and waits until it listens if it should.
func (s *site) run(listen, work bool) *daemon {
	s.t.Helper()
	d := &daemon{out: &testkit.Buffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	listening := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{
			Config: s.cfg, Listen: listen, Work: work, Logger: slog.New(slog.NewTextHandler(d.out, nil)),
			Listening: func(a net.Addr) { listening <- a },
		})
	}()
	d.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return fmt.Errorf("the daemon does not stop:\n%s", d.out)
		}
	})
	s.t.Cleanup(func() { _ = d.stop() })
	if listen {
		select {
		case d.addr = <-listening:
		case <-time.After(patience):
			s.t.Fatalf("the daemon does not listen:\n%s", d.out)
		}
	}
	return d
}

// mustStop stops the daemon, which must have nothing to complain of.
func (s *site) mustStop(d *daemon) {
	s.t.Helper()
	if err := d.stop(); err != nil {
		s.t.Errorf("Run: %v", err)
	}
}

// push sends a signed push of the commit.
func (s *site) push(d *daemon, delivery string) {
	s.t.Helper()
	body := fmt.Sprintf(`{"ref":"refs/heads/main","after":%q,"deleted":false,"head_commit":{"id":%q},"repository":{"full_name":"o/web"},"sender":{"login":"octocat"}}`, s.commit, s.commit)
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+d.addr.String()+"/github-webhook", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	sum := hmac.New(sha256.New, []byte(secret))
	sum.Write([]byte(body))
	for k, v := range map[string]string{
		"Content-Type": "application/json", "X-GitHub-Event": "push", "X-GitHub-Delivery": delivery,
		"X-Hub-Signature-256": "sha256=" + hex.EncodeToString(sum.Sum(nil)),
	} {
		req.Header.Set(k, v)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusAccepted {
		s.t.Fatalf("push: %s: %s", resp.Status, answer)
	}
}

// types lists the events of a delivery.
func (s *site) types(delivery string) string {
	s.t.Helper()
	store, err := OpenStore(s.t.Context(), s.cfg, quiet, true)
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	var types []string
	for e, err := range store.Log.Find(s.t.Context(), eventlog.Filter{Instance: "test", DeliveryID: delivery}) {
		if err != nil {
			s.t.Fatal(err)
		}
		types = append(types, string(e.Type))
	}
	return strings.Join(types, " ")
}

func (s *site) expectDeployed(d *daemon, delivery string) {
	s.t.Helper()
	const want = "received forwarded started deployed"
	s.wait(d, delivery+" is deployed", func() bool { return s.types(delivery) == want })
}

func (s *site) wait(d *daemon, what string, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain: %s\n%s", what, d.out)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
