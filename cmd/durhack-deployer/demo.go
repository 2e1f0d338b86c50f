package main

import (
	"bytes"
	"cmp"
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
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) demoCommand() *cobra.Command {
	var once, keep bool
	cmd := &cobra.Command{
		Use: "demo [--once] [--keep]", Short: "Watch a signed push go live, on a private and temporary server",
		Long: `Makes a private Postgres cluster, a sample git repository and three deployments of
it in a temporary directory, starts the daemon on free ports, prints the address of its
dashboard, sends itself a signed push over HTTP, and prints the story as the log tells it.
Then more pushes come: one fails, and one takes its time. It stays up until interrupted, so
that you can look at it and try the other commands on it, and removes the directory at its
end. No configuration is read.`,
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
	d.whenGivingUp(d.abandon)
	defer func() {
		err = errors.Join(err, d.remove())
		d.whenGivingUp(nil) // and waits for it, if it has begun
	}()
	// Postgres, which refuses to run as root, must be able to reach its folder.
	if err := os.Chmod(d.dir, 0o711); err != nil { //nolint:gosec // 0711 lets nobody list it
		return err
	}
	sample := newSample(d.dir)
	if err := sample.configure(0); err != nil {
		return err
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

	running, stop := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, sample.finish)() // a run that goes on would hold up the end
	admin, address := make(chan net.Addr, 1), make(chan net.Addr, 1)
	ended := make(chan struct{})
	var daemonErr error
	go func() {
		defer close(ended)
		defer stop() // without the daemon nothing is left to wait for
		daemonErr = daemon.Run(running, daemon.Options{
			Config: cfg, Listen: true, Work: true, Version: version().Version,
			Logger:    slog.New(slog.NewTextHandler(daemonLog, nil)),
			Listening: func(a net.Addr) { address <- a }, Administering: func(a net.Addr) { admin <- a },
		})
	}()
	defer func() {
		sample.finish()
		stop()
		<-ended
		if daemonErr != nil { // what follows from it says less
			err = fmt.Errorf("the daemon ended: %w", daemonErr)
		}
	}()
	p := painterFor(d.out)
	select {
	case a := <-admin:
		fmt.Fprintf(d.out, "%s\n", p.paint(bold, fmt.Sprintf("The dashboard: http://%s/", a)))
		if err := sample.configure(a.(*net.TCPAddr).Port); err != nil { // for the commands that are tried
			return err
		}
	case <-ended:
		return context.Cause(running)
	}
	fmt.Fprintf(d.out, "Everything of this demo is in %s\nStarting the daemon with a private Postgres ...\n", d.dir)
	if err := sample.make(running); err != nil {
		return fmt.Errorf("make the sample repository: %w", err)
	}
	select {
	case a := <-address:
		return d.show(running, cfg, sample, a)
	case <-ended:
		return context.Cause(running)
	}
}

// show sends the push, prints its story, has more happen, and waits.
func (d *demo) show(ctx context.Context, cfg *config.Config, s *sample, addr net.Addr) error {
	url := fmt.Sprintf("http://%s/github-webhook", addr)
	deliveryID, err := s.push(ctx, url, s.pushes[0])
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
	if !d.once {
		fmt.Fprintf(d.out, "Sending %d more: one fails, and one takes its time ...\n", len(s.pushes)-1)
		for _, more := range s.pushes[1:] {
			id, err := s.push(ctx, url, more)
			if err != nil {
				return fmt.Errorf("send a push: %w", err)
			}
			if more.deployment == "hello" {
				deliveryID = id
			}
		}
		if err := s.settled(ctx, daemon.Answers(cfg, store)); err != nil {
			return err
		}
	}
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

func (d *demo) tryNext(s *sample, url, deliveryID string) {
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
		{"act in the dashboard, by a link", []string{"login"}},
		{"why it was deployed", []string{"why", deliveryID}},
		{"why that one failed", []string{"logs", "api"}},
		{"go back to the commit before, on purpose", []string{"deploy", "hello", "--ref", words.ShortCommit(s.last().before), "--wait"}},
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

// sample is the demo's repository, its deployments and their secret.
type sample struct {
	dir, config, secret string
	pushes              []samplePush
}

// samplePush is a push to the branch that is called as its deployment.
type samplePush struct {
	deployment, before, after, subject, by string
}

func newSample(dir string) *sample {
	token := make([]byte, 20)
	_, _ = rand.Read(token) // never fails
	return &sample{dir: dir, config: filepath.Join(dir, "deployer.toml"), secret: hex.EncodeToString(token)}
}

// last is the last push to hello.
func (s *sample) last() (last samplePush) {
	for _, p := range s.pushes {
		if p.deployment == "hello" {
			last = p
		}
	}
	return last
}

// busy is there as long as the slow step is to go on.
func (s *sample) busy() string { return filepath.Join(s.dir, "busy") }

// finish ends the slow step.
func (s *sample) finish() { _ = os.Remove(s.busy()) }

// settled waits until what was pushed has become what it is to be.
func (s *sample) settled(ctx context.Context, source answer.Source) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settleWithin, errors.New("what was pushed takes too long: run it again with --keep and read daemon.log there"))
	defer cancel()
	for {
		known, err := source.Deployments(ctx, answer.Moment{})
		if err != nil {
			return err
		}
		if hello := known["hello"].Live; hello != nil && hello.Commit == s.last().after && known["api"].Status == projections.StatusFailed && known["talks"].Status == projections.StatusRunning {
			return nil
		}
		if !retry.Sleep(ctx, 50*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// settleWithin bounds the wait for the deploys of the demo.
const settleWithin = 2 * time.Minute

// make makes a bare repository with a branch for each deployment.
func (s *sample) make(ctx context.Context) error {
	work, bare := filepath.Join(s.dir, "sample"), filepath.Join(s.dir, "sample.git")
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main", work},
		{"init", "--quiet", "--bare", "--initial-branch=main", bare},
	} {
		if _, err := sampleGit(ctx, s.dir, args...); err != nil {
			return err
		}
	}
	if err := os.WriteFile(s.busy(), nil, 0o600); err != nil {
		return err
	}
	last := map[string]string{}
	for _, c := range []struct{ deployment, by, subject, file, text string }{
		{"hello", "ada", "Say hello", "index.html", "<h1>Hello</h1>\n"},
		{"hello", "ada", "Greet DurHack", "index.html", "<h1>Hello, DurHack</h1>\n"},
		{"hello", "sam", "Say when it is", "index.html", "<h1>Hello, DurHack</h1>\n<p>1 November</p>\n"},
		{"hello", "ada", "Say where it is", "index.html", "<h1>Hello, DurHack</h1>\n<p>1 November, Durham</p>\n"},
		{"api", "sam", "Expect the date", "expected.json", "{\n  \"date\": \"1 November\"\n}\n"},
		{"api", "sam", "Answer with the date", "answer.json", "{\n  \"date\": \"1 November\"\n}\n"},
		{"api", "kim", "Answer faster", "answer.json", "{\n  \"date\": undefined\n}\n"},
		{"talks", "kim", "Index the talks", "talks.txt", "Welcome\n"},
	} {
		if last[c.deployment] == "" && c.deployment != "hello" {
			if _, err := sampleGit(ctx, work, "switch", "--quiet", "--orphan", c.deployment); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(work, c.file), []byte(c.text), 0o644); err != nil { //nolint:gosec // a public page
			return err
		}
		head := ""
		for _, args := range [][]string{{"add", c.file}, {"commit", "--quiet", "--author", c.by + " <" + c.by + "@example.com>", "-m", c.subject}, {"rev-parse", "HEAD"}} {
			out, err := sampleGit(ctx, work, args...)
			if err != nil {
				return err
			}
			head = strings.TrimSpace(out)
		}
		if before := last[c.deployment]; before != "" || c.deployment == "talks" {
			s.pushes = append(s.pushes, samplePush{c.deployment, before, head, c.subject, c.by})
		}
		last[c.deployment] = head
	}
	_, err := sampleGit(ctx, work, "push", "--quiet", bare, "main", "api", "talks")
	return err
}

// configure writes the configuration, with the port of the dashboard.
func (s *sample) configure(port int) error {
	bare := filepath.Join(s.dir, "sample.git")
	text := fmt.Sprintf(`# Made by durhack-deployer demo.
instance = "demo"
state_dir = %q
webhook_secret_token = %q

[listen]
host = "127.0.0.1"
port = 0

[admin]
port = %d

[work]
max_runs = 3

[deployments.hello]
repository = "durhack/hello"
branch = "main"
remote = %q
path = %q

[[deployments.hello.steps]]
name = "test"
run = ["grep", "--quiet", "Hello", "index.html"]

[[deployments.hello.steps]]
name = "publish"
run = ["cp", "index.html", %q]

[deployments.api]
repository = "durhack/api"
branch = "api"
remote = %q
path = %q

[[deployments.api.steps]]
name = "test"
run = ["git", "diff", "--no-index", "--color=always", "expected.json", "answer.json"]

[deployments.talks]
repository = "durhack/talks"
branch = "talks"
remote = %q
path = %q

[[deployments.talks.steps]]
name = "index"
run = ["sh", "-c", "n=0; while test -e \"$1\" && test $n -lt 3600; do n=$((n + 1)); echo \"$n talks are indexed\"; sleep 1; done", "sh", %q]
timeout = "2h"
`, filepath.Join(s.dir, "state"), s.secret, port, bare, filepath.Join(s.dir, "www", "hello"), filepath.Join(s.dir, "live.html"),
		bare, filepath.Join(s.dir, "www", "api"), bare, filepath.Join(s.dir, "www", "talks"), s.busy())
	return os.WriteFile(s.config, []byte(text), 0o600)
}

// branchOf is the branch of a deployment.
func branchOf(deployment string) string {
	if deployment == "hello" {
		return "main"
	}
	return deployment
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

// push sends what GitHub sends for a push.
func (s *sample) push(ctx context.Context, url string, p samplePush) (deliveryID string, err error) {
	commit := map[string]any{"id": p.after, "message": p.subject, "author": map[string]any{"name": p.by, "username": p.by}}
	body, err := json.Marshal(map[string]any{
		"ref": "refs/heads/" + branchOf(p.deployment), "before": cmp.Or(p.before, strings.Repeat("0", 40)), "after": p.after, "created": p.before == "", "deleted": false, "forced": false,
		"repository":  map[string]any{"full_name": "durhack/" + p.deployment, "default_branch": branchOf(p.deployment)},
		"pusher":      map[string]any{"name": p.by},
		"sender":      map[string]any{"login": p.by},
		"head_commit": commit, "commits": []any{commit},
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
