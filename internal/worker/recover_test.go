package worker

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
)

func TestInterruptedRunIsRetriedOrFailed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	s.order("retried", commit, false)
	s.startedByHand("retried", commit, host, 1)
	s.run()
	s.expect("retried", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")

	s.order("failed", commit, false)
	s.startedByHand("failed", commit, host, 1)
	s.run(func(o *Options) { o.Deployment.RetryInterrupted = false })
	s.expect("failed", "forwarded 1", "started 1", "interrupted 1", "failed 1")
	if f := last[eventlog.Failed](s, "failed"); !strings.Contains(f.Error, "on_interrupt") || f.Commit != commit {
		t.Errorf("failed: %+v", f)
	}
	s.checkRuns()
}

// No program of ours replays what is open any more, but older logs hold it: the
// run goes on as a newer attempt than the replay's, which is still owed.
func TestReplayOfAnOpenRunIsOwedThoughTheRunWentOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	s.order("d", commit, true)
	s.startedByHand("d", commit, host, 1)
	s.replay("d", commit, 2)
	s.run()
	s.expect("d", "forwarded 1", "started 1", "replayed 2", "interrupted 1", "started 3", "deployed 3", "started 2", "deployed 2")
	if deliveries := s.fold().Deliveries(instance); deliveries[0].Open != 0 {
		t.Errorf("still open: %+v", deliveries)
	}
}

// A deploy that takes the daemon down each time is not tried for ever; a replay
// starts to count again.
func TestThirdInterruptionFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	s.order("d", commit, false)
	for attempt := range 2 {
		s.startedByHand("d", commit, host, attempt+1)
		s.append(eventlog.Transition{DeliveryID: "d", Attempt: attempt + 1, Actor: "sam", Data: eventlog.Interrupted{Detail: "x", Then: thenRetry}})
	}
	s.startedByHand("d", commit, host, 3)
	s.run()
	s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "interrupted 2", "started 3", "interrupted 3", "failed 3")
	if f := last[eventlog.Failed](s, "d"); !strings.Contains(f.Error, "3 times in a row") {
		t.Errorf("failed: %+v", f)
	}
	s.replay("d", commit, 4)
	s.startedByHand("d", commit, host, 4)
	s.run()
	if got := s.story("d"); len(got) != 13 || got[10] != "interrupted 4" || got[12] != "deployed 5" {
		t.Errorf("after the replay: %q", got[8:])
	}
}

// The result that a worker could not append is appended by the next one.
func TestKeptResultIsAppended(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	s.order("d", commit, false)
	started := s.startedByHand("d", commit, "another name of this host", 1)
	if err := saveResult(resultFile(started.RunLog), []eventlog.Data{eventlog.Deployed{Commit: commit, DurationMS: 42, Steps: []eventlog.Step{}}}); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.expect("d", "forwarded 1", "started 1", "deployed 1")
	if d := last[eventlog.Deployed](s, "d"); d.DurationMS != 42 {
		t.Errorf("deployed: %+v", d)
	}

	// One that cannot be read is none.
	s.order("garbled", commit, false)
	started = s.startedByHand("garbled", commit, host, 1)
	if err := os.WriteFile(resultFile(started.RunLog), []byte(`[{"type":"deployed"`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.expect("garbled", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")

	// Nor is one that was there before the run, from a log that is no more.
	s.order("old", commit, false)
	old := filepath.Join(filepath.Dir(started.RunLog), "old-1.log")
	if err := saveResult(resultFile(old), []eventlog.Data{eventlog.Deployed{}}); err != nil {
		t.Fatal(err)
	}
	s.run(func(o *Options) {
		o.Log = &wrapped{Log: o.Log, before: func(g eventlog.Group) error {
			if _, ok := g.Transitions[0].Data.(eventlog.Started); ok && s.exists("runs/web/old-1.result.json") {
				t.Error("the old result is there still when the run starts")
			}
			return nil
		}}
	})
	s.expect("old", "forwarded 1", "started 1", "deployed 1")
}

// A crash between the commit of an end and the removal of its result, whose queue entry
// the mirror has removed, leaves a result that the log has.
func TestResult_GoesWhereTheLogHasIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push("echo fine"), false)
	s.run()
	recorded := last[eventlog.Deployed](s, "d")
	other := recorded
	other.DurationMS++
	at := func(name string) string { return filepath.Join(s.Dir, "runs", slug, name+".log") }
	for name, end := range map[string]eventlog.Data{"d-1": recorded, "d-2": recorded, "e-1": recorded} {
		if err := saveResult(resultFile(at(name)), []eventlog.Data{end}); err != nil {
			t.Fatal(err)
		}
	}
	stop := s.start()
	s.wait("it goes", func() bool { return !exists(resultFile(at("d-1"))) })
	stop()
	if !exists(resultFile(at("d-2"))) || !exists(resultFile(at("e-1"))) {
		t.Error("a result that the log does not have was removed")
	}
	if err := saveResult(resultFile(at("d-1")), []eventlog.Data{other}); err != nil {
		t.Fatal(err)
	}
	s.order("f", s.push("echo more"), false)
	s.run()
	if !exists(resultFile(at("d-1"))) {
		t.Error("a result that is another than the one that was recorded was removed")
	}
}

// Processes that a dead worker left are ended before the run is tried again,
// but not those that another host speaks of.
func TestOrphansAreEndedOnTheirHostOnly(t *testing.T) {
	t.Parallel()
	for on, wantAlive := range map[string]bool{host: false, "elsewhere": true} {
		s := newSite(t)
		commit := s.push("echo fine")
		s.order("d", commit, false)
		started := s.startedByHand("d", commit, on, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan handlers.Result, 1)
		go func() {
			ended <- handlers.Execute(ctx, handlers.Plan{Steps: []handlers.Step{{Name: "sleep", Run: func(ctx context.Context, env handlers.Env) error {
				return env.Run(ctx, "", nil, "sleep", "1000")
			}}}}, handlers.Env{ProcessFile: processFile(started.RunLog), Vars: []string{"PATH=" + os.Getenv("PATH")}, Grace: time.Second}, nil)
		}()
		// Before it runs, the file names no process.
		s.wait("the orphan runs", func() bool {
			file := s.read("runs/web/d-1.process")
			return file != "" && !strings.Contains(file, `"pid":0,`)
		})
		s.run()
		s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")
		// Reaped or not, Execute has returned if and only if the process was ended.
		if wantAlive {
			select {
			case r := <-ended:
				t.Fatalf("the process of another host was ended: %v", r.Err)
			default:
			}
			cancel()
		}
		if r := <-ended; r.Canceled != wantAlive {
			t.Errorf("host %q: the process ended with %v", on, r.Err)
		}
		cancel()
	}
}

// wrapped is a log that fails as the test says.
type wrapped struct {
	Log
	before func(g eventlog.Group) error
}

func (l *wrapped) Append(ctx context.Context, g eventlog.Group) ([]eventlog.Event, error) {
	if err := l.before(g); err != nil {
		return nil, err
	}
	return l.Log.Append(ctx, g)
}

// A log that refuses a result also without its text ends the run nevertheless, and
// the result is kept.
func TestRefusedResultEndsAsInterrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push("echo fine"), false)
	s.run(failing[eventlog.Deployed](math.MaxInt, refusal))
	s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "interrupted 2", "started 3", "interrupted 3", "failed 3")
	kept := filepath.Join(s.Dir, "runs/web/d-3.result.json")
	if end, err := loadResult(filepath.Join(s.Dir, "runs/web/d-3.result.json")); err != nil || len(end) != 1 || end[0].EventType() != eventlog.TypeDeployed {
		t.Errorf("%s holds %v, %v", kept, end, err)
	}
	if f := last[eventlog.Failed](s, "d"); !strings.Contains(f.Error, kept) {
		t.Errorf("failed: %q, which does not name %s", f.Error, kept)
	}
}

// Where a log refuses whatever ends a run, that is tried again with pauses, and the
// entries behind it wait for it.
func TestRefusedEndsWait(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push("echo fine"), false)
	s.order("next", s.push("echo fine"), false)
	var refused atomic.Int32
	var allowed atomic.Bool
	stop := s.start(func(o *Options) {
		o.Log = &wrapped{Log: o.Log, before: func(g eventlog.Group) error {
			if g.Transitions[0].Data.EventType() == eventlog.TypeStarted || allowed.Load() {
				return nil
			}
			refused.Add(1)
			return refusal
		}}
	})
	s.wait("it is tried again, for the next entry, too", func() bool { return refused.Load() >= 9 })
	allowed.Store(true)
	s.drained()
	stop()
	if got := s.quarantined(); len(got) > 0 {
		t.Errorf("moved to quarantine: %q", got)
	}
	s.expect("d", "forwarded 1", "started 1", "deployed 1")
	s.expect("next", "forwarded 1", "started 1", "deployed 1")
}

var refusal = &pgconn.PgError{Code: "23514", Message: "violates a check"}

// failing refuses the first n groups whose first transition is a T.
func failing[T eventlog.Data](n int, err error) func(o *Options) {
	return func(o *Options) {
		o.Log = &wrapped{Log: o.Log, before: func(g eventlog.Group) error {
			if _, ok := g.Transitions[0].Data.(T); ok && n > 0 {
				n--
				return err
			}
			return nil
		}}
	}
}

// A recovery that fails is not forgotten.
func TestFailedRecoveryIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	s.order("d", commit, false)
	s.startedByHand("d", commit, host, 1)
	s.run(failing[eventlog.Interrupted](2, context.DeadlineExceeded))
	s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")
}

// A result that the database refuses still ends the run, and an entry that
// cannot be started makes room.
func TestRefusedByTheDatabase(t *testing.T) {
	t.Parallel()
	refused := &pgconn.PgError{Code: "22P05", Message: "it does not like the text"}
	s := newSite(t)
	s.order("end", s.push("echo the tail; exit 3"), false)
	s.run(failing[eventlog.Failed](1, refused))
	s.expect("end", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "end"); f.OutputTail != "" || !strings.Contains(f.Error, "22P05") || f.ExitCode == nil || *f.ExitCode != 3 {
		t.Errorf("failed: %+v", f)
	}
	commit := s.push("echo fine")
	s.order("start", commit, false)
	s.order("next", commit, false)
	s.run(failing[eventlog.Started](1, refused))
	s.expect("start", "forwarded 1")
	s.expect("next", "forwarded 1", "started 1", "deployed 1")
	if got := s.quarantined(); len(got) != 1 || !strings.Contains(got[0], "start") {
		t.Errorf("in quarantine: %v", got)
	}
}

// Any other error passes, be it before or after the run.
func TestErrorsOfTheLogAreWaitedOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("a", s.push("echo once >> $DIR/ran"), false)
	s.run(failing[eventlog.Started](2, os.ErrPermission))
	s.order("b", s.push("echo once >> $DIR/ran"), false)
	s.run(failing[eventlog.Deployed](2, os.ErrPermission))
	s.expect("a", "forwarded 1", "started 1", "deployed 1")
	s.expect("b", "forwarded 1", "started 1", "deployed 1")
	if s.read("ran") != "once\nonce\n" {
		t.Errorf("ran %q", s.read("ran"))
	}
}
