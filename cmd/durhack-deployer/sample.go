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
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

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
