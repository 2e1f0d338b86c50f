package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers/command"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/lock"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(pgtest.MainNoLeaks(m))
}

const (
	patience = 60 * time.Second
	instance = "test"
	slug     = "web"
	host     = "here"
	secret   = "hunter2-and-more"
)

var quiet = slog.New(slog.DiscardHandler)

// place is where a worker works; it can be told to another process.
type place struct{ DSN, Dir string }

func (p place) queueDir() string { return filepath.Join(p.Dir, "queues", slug) }
func (p place) live() string     { return filepath.Join(p.Dir, "live") }
func (p place) remote() string   { return filepath.Join(p.Dir, "remote.git") }

// options are those of the real parts, but for what only a process has.
func (p place) options(log Log, q *queue.Queue, w Queue) Options {
	// The steps' programs are in the repository, and so differ by commit.
	steps := []command.StepConfig{{Name: "build", Run: []string{"./build"}, Env: map[string]string{"DIR": p.Dir}}}
	handler := command.New(command.Config{Source: source.Source{Path: p.live(), Remote: p.remote(), Patience: time.Millisecond}, Steps: steps})
	return Options{
		Instance: instance, Host: host, Handler: handler, Repository: clone{git.Open(p.live(), p.remote(), git.Options{})},
		Deployment: Deployment{Slug: slug, Repository: "o/r", Path: p.live(), Enabled: true, RetryInterrupted: true},
		Queue:      w, Files: q, Log: log, Locker: lock.OfDeployments(p.Dir),
		RunsDir: filepath.Join(p.Dir, "runs"), Secrets: []string{secret},
		DrainGrace: 20 * time.Millisecond, StepGrace: 200 * time.Millisecond, Logger: quiet,
	}
}

type clone struct{ *git.Repo }

func (c clone) TipAfter(ctx context.Context, branch, before string, _ io.Writer) (string, error) {
	tip, err := c.Repo.TipAfter(ctx, branch, before)
	if errors.Is(err, git.ErrRefNotFound) {
		return "", nil
	}
	return tip, err
}

// site is a place with a remote to push to and a log to look at.
type site struct {
	place
	t    testing.TB
	pool *pgxpool.Pool
	log  *eventlog.Log
}

func newSite(t testing.TB) *site {
	t.Helper()
	return newSiteOn(t, pgtest.MigratedDSN(t))
}

func newSiteOn(t testing.TB, dsn string) *site {
	t.Helper()
	s := &site{place: place{DSN: dsn, Dir: t.TempDir()}, t: t, pool: pgtest.Pool(t, dsn)}
	s.log = eventlog.Open(s.pool, quiet)
	t.Cleanup(s.log.Close)
	s.git(s.Dir, "init", "--quiet", "--bare", "--initial-branch=main", s.remote())
	s.git(s.Dir, "init", "--quiet", "--initial-branch=main", s.pusher())
	return s
}

func (s *site) pusher() string { return filepath.Join(s.Dir, "pusher") }

// git runs git by hand, outside the code under test.
func (s *site) git(dir string, args ...string) string {
	s.t.Helper()
	return testkit.Git(s.t, dir, args...)
}

// push makes a commit whose step is the script, and pushes it to main. An empty
// script leaves the commit without the program.
func (s *site) push(script string) string {
	s.t.Helper()
	build := filepath.Join(s.pusher(), "build")
	_ = os.Remove(build)
	if script != "" {
		if err := os.WriteFile(build, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	s.git(s.pusher(), "add", "--all")
	s.git(s.pusher(), "commit", "--quiet", "--allow-empty", "-m", "change")
	s.git(s.pusher(), "push", "--quiet", "--force", s.remote(), "HEAD:refs/heads/main")
	return s.git(s.pusher(), "rev-parse", "HEAD")
}

// order records that the commit should run, and queues it as the mirror does.
func (s *site) order(delivery, commit string, forced bool) mirror.Entry {
	s.t.Helper()
	events := s.append(eventlog.Transition{DeliveryID: delivery, Attempt: 1, Actor: "sam", Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commit, Rule: "r", ConfigDigest: "c", Forced: forced}}})
	return s.enqueue(events[0])
}

// replay orders one more attempt of a delivery that was ordered before.
func (s *site) replay(delivery, commit string, attempt int) {
	s.t.Helper()
	events := s.append(eventlog.Transition{DeliveryID: delivery, Attempt: attempt, Actor: "sam", Data: eventlog.Replayed{
		Reason: "again", Deployments: []eventlog.Assignment{{Deployment: slug, Attempt: attempt, Order: eventlog.Order{Branch: "main", Commit: commit, Forced: true}}},
	}})
	s.enqueue(events[0])
}

func (s *site) enqueue(e eventlog.Event) mirror.Entry {
	s.t.Helper()
	assignments, err := e.Assignments()
	if err != nil || len(assignments) != 1 {
		s.t.Fatalf("assignments of %+v: %v", e, err)
	}
	entry := mirror.Entry{
		Position: e.Position, EventID: e.ID, DeliveryID: e.DeliveryID, Cause: e.Type, Actor: e.Actor, Assignment: assignments[0],
	}
	s.put(entry)
	return entry
}

func (s *site) put(entry mirror.Entry) {
	s.t.Helper()
	content, err := entry.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	q, err := queue.Open(s.queueDir(), quiet)
	if err != nil {
		s.t.Fatal(err)
	}
	defer q.Close()
	if _, err := q.PutAs(s.t.Context(), ulid.MustParse(entry.EventID), entry.DeliveryID, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

// append records transitions of the deployment by hand.
func (s *site) append(transitions ...eventlog.Transition) []eventlog.Event {
	s.t.Helper()
	for i := range transitions {
		transitions[i].Instance = instance
		if _, whole := transitions[i].Data.(eventlog.Replayed); !whole {
			transitions[i].Deployment = slug
		}
	}
	events, err := s.log.Append(s.t.Context(), eventlog.Group{Transitions: transitions})
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

// startedByHand is what a worker that died left in the log.
func (s *site) startedByHand(delivery, commit, on string, attempt int) eventlog.Started {
	s.t.Helper()
	data := eventlog.Started{
		Commit: commit, Host: on, PID: 1, Plan: []string{"fetch"},
		RunLog: filepath.Join(s.Dir, "runs", slug, fmt.Sprintf("%s-%d.log", delivery, attempt)),
	}
	if err := os.MkdirAll(filepath.Dir(data.RunLog), 0o750); err != nil {
		s.t.Fatal(err)
	}
	s.append(eventlog.Transition{DeliveryID: delivery, Attempt: attempt, Actor: "sam", Data: data})
	return data
}

// start runs a worker, with queue and log of its own as in its own process, and
// returns what stops it and waits.
func (s *site) start(change ...func(o *Options)) (stop func()) {
	s.t.Helper()
	q, err := queue.Open(s.queueDir(), quiet)
	if err != nil {
		s.t.Fatal(err)
	}
	watch, err := q.Watch()
	if err != nil {
		s.t.Fatal(err)
	}
	log := eventlog.Open(s.pool, quiet)
	o := s.options(log, q, watch)
	for _, c := range change {
		c(&o)
	}
	w := New(o)
	w.resultGrace = 2 * time.Second
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				s.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			s.t.Error("the worker does not stop")
		}
		_ = watch.Close()
		_ = q.Close()
		log.Close()
	})
	s.t.Cleanup(stop)
	return stop
}

// run works the queue off.
func (s *site) run(change ...func(o *Options)) {
	s.t.Helper()
	stop := s.start(change...)
	s.drained()
	stop()
}

// drained waits until the queue is empty.
func (s *site) drained() {
	s.t.Helper()
	s.wait("the queue is empty", func() bool { return len(s.queued()) == 0 })
}

func (s *site) queued() []string {
	files, err := os.ReadDir(s.queueDir())
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if !f.IsDir() && !strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
	}
	return names
}

func (s *site) quarantined() []string {
	files, _ := filepath.Glob(filepath.Join(s.queueDir(), "quarantine", "*.json"))
	return files
}

func (s *site) wait(what string, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain: %s; the log:\n%s", what, strings.Join(s.story(""), "\n"))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *site) exists(name string) bool {
	_, err := os.Stat(filepath.Join(s.Dir, name))
	return err == nil
}

func (s *site) touch(name string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.Dir, name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, name))
	return string(b)
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
