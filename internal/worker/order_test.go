package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// journal is a step that notes its begin and end in a file, and would be seen
// to overlap another.
const journal = `echo "begin $DURHACK_DELIVERY_ID" >> $DIR/journal; sleep 0.05; echo "end $DURHACK_DELIVERY_ID" >> $DIR/journal`

func TestRunsInOrderOneAtATime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var want []string
	for i := range 10 {
		name := fmt.Sprintf("d%02d", 9-i) // the order is that of the log, not of the names
		s.order(name, s.push(journal+"\n# "+name), false)
		want = append(want, "begin "+name, "end "+name)
	}
	var stops []func()
	for range 3 { // as in three processes
		stops = append(stops, s.start())
	}
	s.drained()
	for _, stop := range stops {
		stop()
	}
	s.checkRuns()
	if got := strings.Split(strings.TrimSpace(s.read("journal")), "\n"); !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// locker grants the lock as often as the test allows. It never tells the holder
// of a loss: as if the process stood still.
type locker struct {
	grants chan struct{}
	asked  atomic.Int32
	cancel atomic.Pointer[context.CancelCauseFunc] // of the lock that is held
}

func newLocker(grants int) *locker {
	l := &locker{grants: make(chan struct{}, grants)}
	for range grants {
		l.grants <- struct{}{}
	}
	return l
}

func (l *locker) Acquire(ctx context.Context, _ string) (context.Context, func() error, error) {
	l.asked.Add(1)
	select {
	case <-l.grants:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	held, cancel := context.WithCancelCause(ctx)
	l.cancel.Store(&cancel)
	return held, func() error { cancel(nil); return nil }, nil
}

// plans calls f before each plan.
type plans struct {
	handlers.Handler
	f func()
}

func (p plans) Plan(ctx context.Context, job handlers.Job) (handlers.Plan, error) {
	p.f()
	return p.Handler.Plan(ctx, job)
}

// A worker that stood still past the loss of its lock comes back when its
// successor has recorded the interruption, and not yet a start of its own: the
// result must not be recorded.
func TestLoserOfTheLockCannotRecordAResult(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push(`touch $DIR/begun.$DURHACK_ATTEMPT; while [ ! -e $DIR/go.$DURHACK_ATTEMPT ]; do sleep 0.01; done`), false)
	loser := newLocker(2) // for its recovery, and for the entry
	var said bytes.Buffer // read once the worker has stopped
	stopLoser := s.start(func(o *Options) {
		o.Host, o.Locker, o.Logger = "elsewhere", loser, slog.New(slog.NewTextHandler(&said, nil))
	})
	s.wait("the first runs", func() bool { return s.exists("begun.1") })

	planning, proceed := make(chan struct{}), make(chan struct{})
	stopHeir := s.start(func(o *Options) {
		o.Handler = plans{o.Handler, func() { close(planning); <-proceed }}
		o.RunsDir = filepath.Join(s.Dir, "runs-of-heir")
	})
	<-planning
	s.expect("d", "forwarded 1", "started 1", "interrupted 1")
	s.touch("go.1") // the first is done, and comes with its result
	s.wait("the first has given up its result, and asks for the lock again", func() bool { return loser.asked.Load() == 3 })
	stopLoser()
	s.expect("d", "forwarded 1", "started 1", "interrupted 1")
	if kept := filepath.Join(s.Dir, "runs/web/d-1.result.json"); !s.exists("runs/web/d-1.result.json") || !strings.Contains(said.String(), kept) {
		t.Errorf("the result of the first is not kept and named:\n%s", said.String())
	}
	close(proceed)
	s.touch("go.2")
	s.drained()
	stopHeir()
	s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")
	s.checkRuns()
}

// The lock is lost and the holder is told: the run is ended and failed.
func TestLossOfTheLockEndsTheRun(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push(`touch $DIR/begun; while :; do sleep 0.01; done`), false)
	l := newLocker(2)
	stop := s.start(func(o *Options) { o.Locker = l })
	s.wait("it runs", func() bool { return s.exists("begun") })
	(*l.cancel.Load())(errors.New("somebody pulled the plug"))
	s.drained()
	stop()
	s.expect("d", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "d"); !strings.Contains(f.Error, "lock was lost") || !strings.Contains(f.Error, "pulled the plug") {
		t.Errorf("failed: %+v", f)
	}
}

// At the end of the daemon a run may finish within its grace; else it is cut
// short, keeps its entry, and is tried again by the next start.
func TestShutdownInterruptsAndTheNextStartRetries(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push(`touch $DIR/begun; while [ ! -e $DIR/go ]; do sleep 0.01; done`), false)
	stop := s.start()
	s.wait("it runs", func() bool { return s.exists("begun") })
	stop()
	s.expect("d", "forwarded 1", "started 1", "interrupted 1")
	if i := last[eventlog.Interrupted](s, "d"); i.Then != thenRetry || i.Step != "build" {
		t.Errorf("interrupted: %+v", i)
	}
	if len(s.queued()) != 1 {
		t.Errorf("queued: %v", s.queued())
	}
	s.touch("go")
	s.run()
	s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")
}

// fixed is a handler whose plan is always the same.
type fixed struct{ plan handlers.Plan }

func (f fixed) Plan(context.Context, handlers.Job) (handlers.Plan, error) { return f.plan, nil }

// A step that fails by itself has failed, though the daemon stops at that moment.
func TestFailureDuringShutdownIsAFailure(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push("echo fine"), false)
	running := make(chan struct{})
	stop := s.start(func(o *Options) {
		o.Handler = fixed{handlers.Plan{Steps: []handlers.Step{{Name: "last words", Run: func(ctx context.Context, _ handlers.Env) error {
			close(running)
			<-ctx.Done()
			return &process.ExitError{Program: "prog", Code: 3}
		}}}}}
	})
	<-running
	stop()
	s.expect("d", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "d"); f.ExitCode == nil || *f.ExitCode != 3 || f.Steps[0].Result != "failed" {
		t.Errorf("failed: %+v", f)
	}
}

func TestShutdownLetsARunFinish(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push(`touch $DIR/begun; while [ ! -e $DIR/go ]; do sleep 0.01; done`), false)
	stopping := make(chan struct{})
	stop := s.start(func(o *Options) { o.DrainGrace = patience })
	s.wait("it runs", func() bool { return s.exists("begun") })
	go func() { stop(); close(stopping) }()
	s.touch("go")
	<-stopping
	s.expect("d", "forwarded 1", "started 1", "deployed 1")
	if len(s.queued()) != 0 {
		t.Errorf("queued: %v", s.queued())
	}
}

// failingReads fails to read the entries of a delivery as often as it is told.
type failingReads struct {
	Files
	delivery string
	left     atomic.Int32
}

func (f *failingReads) Read(e queue.Entry) ([]byte, error) {
	if e.DeliveryID == f.delivery && f.left.Add(-1) >= 0 {
		return nil, syscall.EIO
	}
	return f.Files.Read(e)
}

func TestEntriesThatCannotBeReadNowLetTheOthersGoOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	s.order("late", commit, false)
	s.order("good", commit, false)
	s.run(func(o *Options) {
		files := &failingReads{Files: o.Files, delivery: "late"}
		files.left.Store(2)
		o.Files = files
	})
	s.expect("good", "forwarded 1", "started 1", "deployed 1")
	s.expect("late", "forwarded 1", "started 1", "deployed 1")
	if all := s.story(""); len(s.quarantined()) > 0 || all[2] != "good started 1" {
		t.Errorf("in quarantine %q; the log: %q", s.quarantined(), all)
	}
}

// An entry that another instance ordered waits for it, and holds up nobody.
func TestEntriesOfAnotherInstanceAreLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo fine")
	events, err := s.log.Append(t.Context(), eventlog.Group{Transitions: []eventlog.Transition{{
		Instance: "other", DeliveryID: "theirs", Deployment: slug, Attempt: 1, Actor: "sam",
		Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commit}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	theirs := s.enqueue(events[0])
	s.order("ours", commit, false)
	stop := s.start()
	s.wait("ours is deployed", func() bool { return len(s.story("ours")) == 3 })
	stop()
	if got := s.queued(); len(s.quarantined()) > 0 || !slices.Equal(got, []string{theirs.Name()}) {
		t.Errorf("queued %q, in quarantine %q", got, s.quarantined())
	}
}

// Entries that cannot be read, or were not ordered, are moved aside; the rest goes on.
func TestWorker_StrangeEntriesGoToQuarantine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo ran >> $DIR/ran")
	good := s.order("first", commit, false)
	for name, content := range map[string]string{
		"01H00000000000000000000000_garbage.json": "{",
		"01H00000000000000000000001_renamed.json": mustJSON(good),
	} {
		if err := os.WriteFile(filepath.Join(s.queueDir(), name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	large := filepath.Join(s.queueDir(), "01H00000000000000000000002_large.json")
	s.touch("large")
	if err := errors.Join(os.Truncate(filepath.Join(s.Dir, "large"), queue.MaxEntry+1), os.Rename(filepath.Join(s.Dir, "large"), large)); err != nil {
		t.Fatal(err)
	}
	forged := good
	forged.DeliveryID, forged.EventID = "forged", "01H00000000000000000000003"
	s.put(forged)
	altered := s.order("altered", commit, false)
	if err := os.Remove(filepath.Join(s.queueDir(), altered.Name())); err != nil {
		t.Fatal(err)
	}
	altered.Forced = true
	s.put(altered)
	s.order("last", commit, false)
	s.run()
	if got := s.quarantined(); len(got) != 5 {
		t.Errorf("in quarantine: %v", got)
	}
	s.expect("first", "forwarded 1", "started 1", "deployed 1")
	s.expect("last", "forwarded 1", "started 1", "deployed 1")
	s.expect("altered", "forwarded 1")
	if s.read("ran") != "ran\nran\n" {
		t.Errorf("ran: %q", s.read("ran"))
	}
}

// What is done while nothing waits is done once after a run, and ends for the next push.
func TestIdle_EndsForThePushThatComes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	begun := make(chan struct{}, 10)
	var busy atomic.Bool
	stop := s.start(func(o *Options) {
		o.Idle = func(ctx context.Context) {
			busy.Store(true)
			begun <- struct{}{}
			<-ctx.Done()
			busy.Store(false)
		}
	})
	for i := range 3 {
		s.order(fmt.Sprint("d", i), s.push(fmt.Sprintf("touch $DIR/ran%d", i)), false)
		<-begun // and not before the run has ended
		if !s.exists(fmt.Sprint("ran", i)) || len(s.queued()) > 0 {
			t.Errorf("run %d had not ended", i)
		}
	}
	stop()
	if busy.Load() || len(begun) > 0 {
		t.Errorf("stopped, but busy %v, and begun %d times too often", busy.Load(), len(begun))
	}
	s.checkRuns()
}
