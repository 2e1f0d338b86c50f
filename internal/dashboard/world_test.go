package dashboard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// hostile is what senders may write: markup, an end of it, what drives terminals, what turns
// letters around.
const hostile = `</title><script>alert(1)</script><img src=x onerror=alert(1)>"'` + "\u202e\x1b[31m&amp;{{.}}"

// world is a log with events of all kinds, and the pages of it.
type world struct {
	t       *testing.T
	cfg     *config.Config
	pool    *pgxpool.Pool
	log     *eventlog.Log
	handler *Handler
	away    error // instead of the log
	said    strings.Builder
	deltas  git.Changes
	asked   int // for changes
	clones  map[string]map[string]git.Authored
	cloned  []string // the deployments whose clone was asked
	slow    bool     // clones never answer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pool: pgtest.Migrated(t)}
	w.cfg = &config.Config{Instance: "www1", StateDir: t.TempDir(), Origin: "https://deploy.example.com", Deployments: map[string]*config.Deployment{}}
	for _, slug := range []string{"web", "api", "docs", "idle", "off"} {
		w.cfg.Deployments[slug] = &config.Deployment{
			Slug: slug, Repository: "octo/" + slug, Branch: "main", Enabled: slug != "off", Remote: "https://github.com/octo/" + slug + ".git",
		}
	}
	w.log = eventlog.Open(w.pool, slog.New(slog.DiscardHandler))
	t.Cleanup(w.log.Close)
	w.handler = New(Options{
		Config: w.cfg, Version: "v1", Log: slog.New(slog.NewTextHandler(&w.said, nil)),
		Source: func() (answer.Source, error) {
			return answer.Source{
				Config: w.cfg, Pool: w.pool, Log: w.log, Obstacle: func(context.Context, string) string { return "" },
				Tree: func(*config.Deployment) answer.Tree { return noTree{} },
			}, w.away
		},
		Changes: func(context.Context, *config.Deployment, string, string) (git.Changes, error) {
			w.asked++
			return w.deltas, nil
		},
		Authored: func(ctx context.Context, d *config.Deployment, commits []string) (map[string]git.Authored, error) {
			w.cloned = append(w.cloned, d.Slug)
			if w.slow {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return w.clones[d.Slug], nil
		},
	})
	w.handler.commits.within = time.Minute // however busy the machine is
	return w
}

type noTree struct{}

func (noTree) Head(context.Context) (string, error) { return "", nil }
func (noTree) Unfinished() (string, error)          { return "", nil }

// append records transitions in one group.
func (w *world) append(payload *eventlog.Payload, transitions ...eventlog.Transition) []eventlog.Event {
	w.t.Helper()
	events, err := w.log.Append(w.t.Context(), eventlog.Group{Transitions: transitions, Payload: payload})
	if err != nil {
		w.t.Fatal(err)
	}
	return events
}

// of is a transition of a delivery of this instance.
func of(id, slug string, attempt int, data eventlog.Data) eventlog.Transition {
	return eventlog.Transition{Instance: "www1", DeliveryID: id, Deployment: slug, Attempt: attempt, Actor: "ann", Data: data}
}

func hash(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:20])
}

// receive records a push that a deployment is to run, with its body.
func (w *world) receive(id, slug, subject string) {
	w.t.Helper()
	commit := map[string]any{"id": hash(id), "message": subject + "\n\nmore", "author": map[string]any{"name": "Zoë " + hostile, "username": "zoe"}}
	body, err := json.Marshal(map[string]any{"head_commit": commit, "commits": []any{commit}})
	if err != nil {
		w.t.Fatal(err)
	}
	salt := make([]byte, 16)
	digest := sha256.Sum256(append(salt, body...))
	payload := &eventlog.Payload{Digest: hex.EncodeToString(digest[:]), Salt: salt, Body: body, ContentType: "application/json"}
	received := eventlog.Received{
		Event: "push", Ref: "refs/heads/main", Repository: "octo/" + slug, Commit: hash(id), ReceivedAt: time.Now().UTC(), PayloadDigest: payload.Digest,
		PayloadSize: int64(len(body)), ContentType: payload.ContentType, Source: eventlog.SourceGitHub, Entry: strings.ToUpper(fmt.Sprintf("01J%023x", digest[:11])),
	}
	forwarded := eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: hash(id), Rule: "octo/" + slug + " refs/heads/main -> " + slug, ConfigDigest: hash("c")}}
	w.append(payload, of(id, "", 1, received), of(id, slug, 1, forwarded))
}

// find records a deploy that no push ordered: by hand, or of a tip that the poll has found.
func (w *world) find(id, slug string, source eventlog.Source) {
	w.t.Helper()
	digest := sha256.Sum256([]byte(id))
	received := eventlog.Received{
		Event: "push", Ref: "refs/heads/main", Repository: "octo/" + slug, Commit: hash(id), ReceivedAt: time.Now().UTC(),
		PayloadDigest: hex.EncodeToString(digest[:]), Source: source, Entry: strings.ToUpper(fmt.Sprintf("01J%023x", digest[:11])),
	}
	forwarded := eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: hash(id), Rule: "r", ConfigDigest: hash("c")}}
	w.append(nil, of(id, "", 1, received), of(id, slug, 1, forwarded))
	w.start(id, slug, 1, "")
	w.append(nil, of(id, slug, 1, eventlog.Deployed{Commit: hash(id), Steps: twoSteps, DurationMS: 3800}))
}

func (w *world) start(id, slug string, attempt int, previous string) {
	w.t.Helper()
	host, err := os.Hostname()
	if err != nil {
		w.t.Fatal(err)
	}
	w.append(nil, of(id, slug, attempt, eventlog.Started{Commit: hash(id), PreviousCommit: previous, Host: host, PID: 1, Plan: []string{"fetch", "checkout", "build"}, RunLog: "/x"}))
	w.write(id, slug, attempt, "== 2026-01-31T15:04:05.000Z step fetch\n== 2026-01-31T15:04:06.000Z step checkout\n\x1b[31mred "+hostile+"\x1b[0m\n")
}

// write writes the run log of an attempt.
func (w *world) write(id, slug string, attempt int, text string) {
	w.t.Helper()
	path := filepath.Join(w.cfg.StateDir, "runs", slug, handlers.RunLogName(id, attempt))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

var twoSteps = []eventlog.Step{{Name: "fetch", DurationMS: 800, Result: "ok"}, {Name: "build", DurationMS: 3000, Result: "ok"}}

func (w *world) deploy(id, slug, subject, previous string) {
	w.t.Helper()
	w.receive(id, slug, subject)
	w.start(id, slug, 1, previous)
	w.append(nil, of(id, slug, 1, eventlog.Deployed{Commit: hash(id), PreviousCommit: previous, Steps: twoSteps, DurationMS: 3800}))
}

// fail records a push whose run failed.
func (w *world) fail(id, slug, subject, previous string) {
	w.t.Helper()
	w.receive(id, slug, subject)
	w.start(id, slug, 1, previous)
	code := 1
	w.append(nil, of(id, slug, 1, eventlog.Failed{
		Commit: hash(id), Step: "build", ExitCode: &code, Error: `step "build": ` + hostile, OutputTail: hostile, DurationMS: 900,
		Steps: []eventlog.Step{twoSteps[0], {Name: "build", DurationMS: 100, Result: "failed"}},
	}))
}

// fill records something of every kind: a deployment that failed, one that runs, one that is
// held, one that waits; two instances.
func (w *world) fill() {
	w.t.Helper()
	for i := range 25 {
		w.deploy(fmt.Sprintf("web-%02d", i), "web", fmt.Sprintf("Change %d", i), hash(fmt.Sprintf("web-%02d", i-1)))
	}
	w.fail("web-bad", "web", "Break it "+hostile, hash("web-24"))
	w.append(nil, of("web-bad", "", 2, eventlog.Replayed{Reason: hostile, Deployments: []eventlog.Assignment{{
		Deployment: "web", Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: hash("web-bad"), Rule: "r", ConfigDigest: hash("c")},
	}}}))
	w.start("web-bad", "web", 2, hash("web-24"))
	w.append(nil, of("web-bad", "web", 2, eventlog.Interrupted{Detail: "the daemon was stopped", Then: "fail", Step: "build"}),
		of("web-bad", "web", 2, eventlog.Failed{Commit: hash("web-bad"), Step: "build", Signal: "SIGKILL", Error: "interrupted", DurationMS: 5}))
	w.deploy("api-1", "api", "First", "")
	w.receive("api-2", "api", "Second "+hostile)
	w.start("api-2", "api", 1, hash("api-1"))
	w.receive("api-3", "api", "Third")
	w.deploy("docs-1", "docs", "Write it down", "")
	w.append(nil, of("pin-1", "docs", 1, eventlog.Pinned{Commit: hash("docs-1"), Reason: hostile}))
	w.append(nil, of("freeze-1", "docs", 1, eventlog.Frozen{Until: time.Now().Add(time.Hour), Reason: hostile}))
	w.receive("docs-2", "docs", "Held")
	w.append(nil, of("docs-2", "docs", 1, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: hostile, Commit: hash("docs-2")}))
	w.append(nil, of("ping-1", "", 1, eventlog.Received{Event: "ping", ReceivedAt: time.Now(), PayloadDigest: hash("p") + hash("p")[:24], Source: eventlog.SourceGitHub, Entry: "01J00000000000000000000001"}),
		of("ping-1", "", 1, eventlog.Voided{Reason: eventlog.ReasonPing, Detail: "a ping deploys nothing " + hostile}))
	other := of("far-1", "far", 1, eventlog.Deployed{Commit: hash("far"), Steps: twoSteps, DurationMS: 3800})
	received := of("far-1", "", 1, eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "octo/far", Commit: hash("far"), ReceivedAt: time.Now(), PayloadDigest: hash("f") + hash("f")[:24], Source: eventlog.SourceCLI, Entry: "01J00000000000000000000002"})
	forwarded := of("far-1", "far", 1, eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: hash("far"), Rule: "r", ConfigDigest: hash("c")}})
	started := of("far-1", "far", 1, eventlog.Started{Commit: hash("far"), Host: "elsewhere", Plan: []string{"fetch"}, RunLog: "/there/far.log"})
	for _, tr := range []*eventlog.Transition{&received, &forwarded, &started, &other} {
		tr.Instance = "www2"
		w.append(nil, *tr)
	}
	w.deltas = git.Changes{Files: []git.Change{{Path: "a/" + hostile, Added: 3, Removed: 1}, {Path: "logo.png", Added: -1, Removed: -1}}, Count: 4}
	w.project()
}

// project brings the read models up to the log.
func (w *world) project() {
	w.t.Helper()
	if err := projections.New(w.pool, w.log, slog.New(slog.DiscardHandler)).Rebuild(w.t.Context(), nil); err != nil {
		w.t.Fatal(err)
	}
}

// get asks for a page, and wants an answer with this code.
func (w *world) get(path string, code int) *httptest.ResponseRecorder {
	w.t.Helper()
	answer := httptest.NewRecorder()
	w.handler.ServeHTTP(answer, httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, path, nil))
	if answer.Code != code {
		w.t.Fatalf("GET %s: %d, not %d\n%s\n%s", path, answer.Code, code, answer.Body, w.said.String())
	}
	return answer
}

// keep leaves what a verify has found.
func (w *world) keep(v answer.Verified) {
	w.t.Helper()
	raw, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(answer.VerifiedPath(w.cfg), raw, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
