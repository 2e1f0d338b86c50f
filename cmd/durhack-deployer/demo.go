package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) demoCommand() *cobra.Command {
	var once, keep bool
	cmd := &cobra.Command{
		Use: "demo [--once] [--keep]", Short: "Watch a signed push go live, on a private and temporary server",
		Long: `Makes a private Postgres cluster, a sample git repository and a deployment of
it in a temporary directory, starts the daemon on free ports, sends itself a
signed push over HTTP, and prints the story as the log tells it. It stays up
until interrupted, so that you can try the other commands on it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.demo(cmd.Context(), once, keep) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "end once the push is live (exit 0), or is not (exit 1)")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the temporary directory")
	return cmd
}

func (c *cli) demo(ctx context.Context, once, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "durhack-deployer-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	p := painterFor(c.out)
	fmt.Fprintf(c.out, "%s\n", p.paint(bold, "Everything of this demo is in "+dir))
	defer func() {
		if keep {
			fmt.Fprintf(c.out, "kept: %s\n", dir)
			return
		}
		if rerr := os.RemoveAll(dir); rerr != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", dir, rerr))
			return
		}
		fmt.Fprintf(c.out, "removed: %s\n", dir)
	}()
	// Postgres, which refuses to run as root, must be able to reach its folder.
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // 0711 lets nobody list it
		return err
	}
	sample, err := makeSample(ctx, dir)
	if err != nil {
		return fmt.Errorf("make the sample repository (git is needed): %w", err)
	}
	cfg, err := config.Load([]string{sample.config}, func(string) string { return "" })
	if err != nil {
		return err
	}
	daemonLog, err := os.Create(filepath.Join(dir, "daemon.log"))
	if err != nil {
		return err
	}
	defer daemonLog.Close()

	fmt.Fprintln(c.out, "Starting the daemon with a private Postgres ...")
	running, stop := context.WithCancel(ctx)
	address := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- daemon.Run(running, daemon.Options{
			Config: cfg, Listen: true, Work: true, Version: version().Version,
			Logger:    slog.New(slog.NewTextHandler(daemonLog, nil)),
			Listening: func(a net.Addr) { address <- a },
		})
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	select {
	case a := <-address:
		err = c.demoPush(ctx, cfg, sample, a, once)
	case early := <-ended:
		ended <- nil
		err = early
	}
	return err
}

// demoPush sends the push, prints its story, and waits.
func (c *cli) demoPush(ctx context.Context, cfg *config.Config, s sample, addr net.Addr, once bool) error {
	url := fmt.Sprintf("http://%s/github-webhook", addr)
	deliveryID, err := s.push(ctx, url)
	if err != nil {
		return fmt.Errorf("send the push: %w", err)
	}
	fmt.Fprintf(c.out, "Sent a signed push to %s: 202, delivery %s\n\n", url, deliveryID)

	store, err := daemon.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler), false)
	if err != nil {
		return err
	}
	defer store.Close()
	live := false
	err = c.follow(ctx, store.Log, deliveryID, func(e eventlog.Event) { live = e.Type == eventlog.TypeDeployed })
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out)
	if err := c.status(ctx, cfg, store, statusOptions{}); err != nil {
		return err
	}
	if !live {
		return &hintedError{errors.New("the push did not go live"), "run it again with --keep and read daemon.log and runs/ there"}
	}
	if once {
		return nil
	}
	c.tryNext(s, url, deliveryID)
	<-ctx.Done()
	fmt.Fprintln(c.out, "\nStopping ...")
	return nil
}

func (c *cli) tryNext(s sample, url, deliveryID string) {
	me := "durhack-deployer"
	if exe, err := os.Executable(); err != nil || strings.Contains(exe, "go-build") {
		me = "go run ./cmd/durhack-deployer"
	}
	p := painterFor(c.out)
	fmt.Fprintf(c.out, "\n%s\n", p.paint(bold, "It stays up until you press Ctrl-C. In another terminal, try:"))
	fmt.Fprintf(c.out, "  %s --config %s why %s\n", me, s.config, deliveryID)
	fmt.Fprintf(c.out, "  %s --config %s log --follow\n", me, s.config)
	fmt.Fprintf(c.out, "  %s --config %s deploy hello --ref %s   # back to the commit before\n", me, s.config, shortCommit(s.before))
	fmt.Fprintf(c.out, "  %s --config %s verify\n", me, s.config)
	fmt.Fprintf(c.out, "The listener is at %s\n", url)
}

// sample is the demo's repository, deployment and secret.
type sample struct {
	config, secret, before, after string
}

// makeSample makes a bare repository with two commits and a configuration that
// deploys its main branch.
func makeSample(ctx context.Context, dir string) (sample, error) {
	token := make([]byte, 20)
	_, _ = rand.Read(token) // never fails
	s := sample{config: filepath.Join(dir, "deployer.toml"), secret: hex.EncodeToString(token)}
	work, bare := filepath.Join(dir, "sample"), filepath.Join(dir, "sample.git")
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main", work},
		{"init", "--quiet", "--bare", "--initial-branch=main", bare},
	} {
		if _, err := sampleGit(ctx, dir, args...); err != nil {
			return s, err
		}
	}
	for i, text := range []string{"<h1>Hello</h1>\n", "<h1>Hello, DurHack</h1>\n"} {
		if err := os.WriteFile(filepath.Join(work, "index.html"), []byte(text), 0o644); err != nil { //nolint:gosec // a public page
			return s, err
		}
		for _, args := range [][]string{{"add", "index.html"}, {"commit", "--quiet", "-m", fmt.Sprintf("Greeting %d", i+1)}} {
			if _, err := sampleGit(ctx, work, args...); err != nil {
				return s, err
			}
		}
		head, err := sampleGit(ctx, work, "rev-parse", "HEAD")
		if err != nil {
			return s, err
		}
		s.before, s.after = s.after, strings.TrimSpace(head)
	}
	if _, err := sampleGit(ctx, work, "push", "--quiet", bare, "main"); err != nil {
		return s, err
	}
	text := fmt.Sprintf(`# Made by durhack-deployer demo.
instance = "demo"
state_dir = %q
webhook_secret_token = %q

[listen]
host = "127.0.0.1"
port = 0

[deployments.hello]
repository = "durhack/hello"
enabled = true
branch = "main"
remote = %q
path = %q

[[deployments.hello.steps]]
name = "test"
run = ["grep", "--quiet", "Hello", "index.html"]

[[deployments.hello.steps]]
name = "publish"
run = ["cp", "index.html", %q]
`, filepath.Join(dir, "state"), s.secret, bare, filepath.Join(dir, "www"), filepath.Join(dir, "live.html"))
	return s, os.WriteFile(s.config, []byte(text), 0o600)
}

// sampleGit runs git without the user's configuration, which might sign or hook commits.
func sampleGit(ctx context.Context, dir string, args ...string) (string, error) {
	return runGit(ctx, dir, []string{
		"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Demo", "GIT_AUTHOR_EMAIL=demo@example.com",
		"GIT_COMMITTER_NAME=Demo", "GIT_COMMITTER_EMAIL=demo@example.com",
	}, args...)
}

// push sends what GitHub sends for a push of s.after to main.
func (s sample) push(ctx context.Context, url string) (deliveryID string, err error) {
	body, err := json.Marshal(map[string]any{
		"ref": "refs/heads/main", "before": s.before, "after": s.after, "created": false, "deleted": false, "forced": false,
		"repository":  map[string]any{"full_name": "durhack/hello", "default_branch": "main"},
		"pusher":      map[string]any{"name": "demo"},
		"sender":      map[string]any{"login": "demo"},
		"head_commit": map[string]any{"id": s.after, "message": "Greeting 2"},
	})
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, []byte(s.secret))
	mac.Write(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	deliveryID = newDeliveryID(time.Now())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", deliveryID)
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("the listener answered %s", resp.Status)
	}
	return deliveryID, nil
}
