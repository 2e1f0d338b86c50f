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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/localpg"
)

func (c *cli) demoCommand() *cobra.Command {
	var once, keep bool
	cmd := &cobra.Command{
		Use: "demo [--once] [--keep]", Short: "Watch a signed push go live, on a private and temporary server",
		Long: `Makes a private Postgres cluster, a sample git repository and a deployment of
it in a temporary directory, starts the daemon on free ports, sends itself a
signed push over HTTP, and prints the story as the log tells it. It stays up
until interrupted, so that you can try the other commands on it, and removes
the directory at its end. No configuration is read.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return (&demo{cli: c, once: once, keep: keep}).run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end once the push is live (exit 0), or is not (exit 1)")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the temporary directory, with the daemon's log and the run logs")
	return cmd
}

type demo struct {
	*cli
	once, keep bool
	dir        string
}

func (d *demo) run(ctx context.Context) (err error) {
	// Symlinks are resolved because git and Postgres print paths that are.
	tmp, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		return fmt.Errorf("find the directory for temporary files: %w", err)
	}
	if d.dir, err = os.MkdirTemp(tmp, "durhack-deployer-demo-"); err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	p := painterFor(d.out)
	fmt.Fprintf(d.out, "%s\n", p.paint(bold, "Everything of this demo is in "+d.dir))
	d.whenGivingUp(d.abandon)
	defer func() {
		err = errors.Join(err, d.remove())
		d.whenGivingUp(nil) // and waits for it, if it has begun
	}()
	// Postgres, which refuses to run as root, must be able to reach its folder.
	if err := os.Chmod(d.dir, 0o711); err != nil { //nolint:gosec // 0711 lets nobody list it
		return err
	}
	sample, err := makeSample(ctx, d.dir)
	if err != nil {
		return fmt.Errorf("make the sample repository: %w", err)
	}
	d.configPaths = []string{sample.config}
	cfg, err := config.Load(d.configPaths, func(string) string { return "" })
	if err != nil {
		return err
	}
	daemonLog, err := os.Create(filepath.Join(d.dir, "daemon.log"))
	if err != nil {
		return err
	}
	defer daemonLog.Close()

	fmt.Fprintln(d.out, "Starting the daemon with a private Postgres ...")
	running, stop := context.WithCancel(ctx)
	address := make(chan net.Addr, 1)
	ended := make(chan struct{})
	var daemonErr error
	go func() {
		defer close(ended)
		defer stop() // without the daemon nothing is left to wait for
		daemonErr = daemon.Run(running, daemon.Options{
			Config: cfg, Listen: true, Work: true, Version: version().Version,
			Logger:    slog.New(slog.NewTextHandler(daemonLog, nil)),
			Listening: func(a net.Addr) { address <- a },
		})
	}()
	defer func() {
		stop()
		<-ended
		if daemonErr != nil { // what follows from it says less
			err = fmt.Errorf("the daemon ended: %w", daemonErr)
		}
	}()
	select {
	case a := <-address:
		return d.show(running, cfg, sample, a)
	case <-ended:
		return context.Cause(running)
	}
}

// show sends the push, prints its story, and waits.
func (d *demo) show(ctx context.Context, cfg *config.Config, s sample, addr net.Addr) error {
	url := fmt.Sprintf("http://%s/github-webhook", addr)
	deliveryID, err := s.push(ctx, url)
	if err != nil {
		return fmt.Errorf("send the push: %w", err)
	}
	fmt.Fprintf(d.out, "Sent a signed push to %s: 202, delivery %s\n\n", url, deliveryID)

	store, err := daemon.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler), false)
	if err != nil {
		return err
	}
	defer store.Close()
	end, err := d.follow(ctx, cfg, store, deliveryID, 0, false)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	if err := d.status(ctx, cfg, store, statusOptions{}); err != nil {
		return err
	}
	if !wentLive(end) {
		return &hintedError{errors.New("the push did not go live"), "run it again with --keep and read daemon.log and state/runs/ there"}
	}
	if d.once {
		return nil
	}
	d.tryNext(s, url, deliveryID)
	<-ctx.Done()
	fmt.Fprintln(d.out, "\nStopping ...")
	return nil
}

func (d *demo) tryNext(s sample, url, deliveryID string) {
	p := painterFor(d.out)
	prefix := "  "
	if os.Getenv("DATABASE_URL") != "" { // it would lead to another log than the demo's
		prefix = "  env -u DATABASE_URL "
	}
	fmt.Fprintf(d.out, "\n%s\n", p.paint(bold, "It stays up until you press Ctrl-C. In another terminal, try:"))
	for _, try := range []struct {
		what string
		args []string
	}{
		{"why it was deployed", []string{"why", deliveryID}},
		{"go back to the commit before, on purpose", []string{"deploy", "hello", "--ref", shortCommit(s.before), "--wait"}},
		{"watch the log", []string{"log", "--follow"}},
		{"compare the log, the read models and the queues", []string{"verify"}},
	} {
		fmt.Fprintf(d.out, "  %s\n%s%s\n", p.paint(grey, "# "+try.what), prefix, d.command(try.args...))
	}
	fmt.Fprintf(d.out, "\nThe listener is at %s, what it deployed is %s\n", url, filepath.Join(d.dir, "live.html"))
}

func (d *demo) remove() error {
	if d.keep {
		fmt.Fprintf(d.out, "kept: %s\n", d.dir)
		return nil
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("remove %s: %w", d.dir, err)
	}
	fmt.Fprintf(d.out, "removed: %s\n", d.dir)
	return nil
}

// abandon is for a second Ctrl-C: the daemon is not waited for, but a Postgres
// must not be left behind, running in a directory that nobody will look for.
func (d *demo) abandon() {
	localpg.Abandon(filepath.Join(d.dir, "state", "postgres"))
	if err := d.remove(); err != nil {
		fmt.Fprintf(d.err, "durhack-deployer: %s\n", printableLines(err.Error()))
	}
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

[admin]
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
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	// Set by git for its hooks, these would lead to the caller's repository.
	env := slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return name == "GIT_DIR" || name == "GIT_WORK_TREE" || name == "GIT_INDEX_FILE"
	})
	cmd.Env = append(env,
		"GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Demo", "GIT_AUTHOR_EMAIL=demo@example.com",
		"GIT_COMMITTER_NAME=Demo", "GIT_COMMITTER_EMAIL=demo@example.com",
	)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return "", &hintedError{err, "install git: what is deployed comes from git repositories"}
	case err != nil:
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
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
	deliveryID = act.NewID(time.Now())
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
