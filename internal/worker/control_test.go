package worker

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// control is what people ask for, as a test says it.
type control struct {
	mu             sync.Mutex
	frozen, pinned *projections.Hold
	canceled       bool
	unknown        bool
	asked          int // for holds
}

func (c *control) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *control) Holds(string) (frozen, pinned *projections.Hold, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.frozen, c.pinned, !c.unknown
}

func (c *control) Attempt(string, string, int) (projections.Attempt, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.canceled {
		return projections.Attempt{}, true
	}
	return projections.Attempt{CanceledBy: "sam", CanceledReason: "the wrong one"}, true
}

func (c *control) of(o *Options) { o.Control = c }

func TestFreeze_LetsPushesWaitAndTheNewestRun(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := &control{unknown: true}
	first := s.push("echo 1 >> $DIR/ran")
	s.order("a", first, false)
	stop := s.start(c.of)
	// Nothing runs before it is known whether it is frozen.
	time.Sleep(2 * lookEach)
	c.set(func() {
		c.unknown, c.frozen = false, &projections.Hold{Position: 1, Reason: "the finals", Actor: "sam"}
	})
	s.order("b", s.push("echo 2 >> $DIR/ran"), false)
	now := s.push("echo now >> $DIR/ran")
	events := s.append(eventlog.Transition{DeliveryID: "c", Attempt: 1, Actor: "sam", Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: now, Forced: true, Override: true}}})
	s.enqueue(events[0])
	s.wait("what overrides runs", func() bool { return s.read("ran") == "now\n" })
	newest := s.order("d", s.push("echo 3 >> $DIR/ran"), false)
	time.Sleep(2 * lookEach)
	if s.read("ran") != "now\n" {
		t.Errorf("ran %q while it was frozen", s.read("ran"))
	}
	c.set(func() {
		c.frozen = &projections.Hold{Position: 1, Ended: newest.Position + 1, Reason: "the finals", Actor: "sam"}
	})
	s.drained()
	stop()
	s.expect("a", "forwarded 1", "voided 1")
	s.expect("b", "forwarded 1", "voided 1")
	s.expect("d", "forwarded 1", "started 1", "deployed 1")
	if s.read("ran") != "now\n3\n" || last[eventlog.Voided](s, "a").Reason != eventlog.ReasonSuperseded {
		t.Errorf("ran %q, and a ended in %+v", s.read("ran"), last[eventlog.Voided](s, "a"))
	}
}

// What overrides the freeze comes into the directory that took the place of the queue's.
func TestFreeze_DoesNotHideThatTheQueueWasReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := &control{frozen: &projections.Hold{Position: 1, Reason: "the finals", Actor: "sam"}}
	s.order("a", s.push("echo 1 >> $DIR/ran"), false)
	q, err := queue.Open(s.queueDir(), quiet, queue.Derived())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	watch, err := q.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	log := eventlog.Open(s.pool, quiet)
	defer log.Close()
	o := s.options(log, q, watch)
	c.of(&o)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- New(o).Run(ctx) }()
	s.wait("the worker waits for the thaw", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.asked > 2
	})
	if err := os.Rename(s.queueDir(), s.queueDir()+".gone"); err != nil {
		t.Fatal(err)
	}
	if replaced, err := q.Replaced(); err != nil || !replaced { // as the mirror asks
		t.Fatalf("Replaced = %v, %v", replaced, err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, queue.ErrReplaced) {
			t.Errorf("Run = %v, want ErrReplaced", err)
		}
	case <-time.After(patience):
		cancel()
		t.Errorf("the worker goes on waiting beside its queue, and ended with %v when it was stopped", <-ended)
	}
}

func TestPin_VoidsAllButItsCommitAndWhatOverrides(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.push("echo 1 >> $DIR/ran")
	c := &control{pinned: &projections.Hold{Commit: first, Reason: "slow", Actor: "sam"}}
	s.order("a", first, false)
	s.order("b", s.push("echo 2 >> $DIR/ran"), false)
	s.run(c.of)
	s.expect("a", "forwarded 1", "started 1", "deployed 1")
	s.expect("b", "forwarded 1", "voided 1")
	if v := last[eventlog.Voided](s, "b"); v.Reason != eventlog.ReasonPinned {
		t.Errorf("voided %+v", v)
	}
}

func TestCancel_EndsTheRunAndTheQueueGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := &control{}
	s.order("a", s.push("touch $DIR/began; sleep 1000"), false)
	stop := s.start(c.of)
	s.wait("it runs", func() bool { return s.exists("began") })
	c.set(func() { c.canceled = true })
	s.drained()
	c.set(func() { c.canceled = false })
	s.order("b", s.push("true"), false)
	s.drained()
	stop()
	s.expect("a", "forwarded 1", "started 1", "failed 1")
	s.expect("b", "forwarded 1", "started 1", "deployed 1")
	if f := last[eventlog.Failed](s, "a"); f.Error != "canceled by sam: the wrong one" || f.Step != "build" {
		t.Errorf("failed: %+v", f)
	}
}

// A crash between the request and the end of the run must not start it again.
func TestCancel_OfARunThatACrashLeftIsNotRetried(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push("echo again >> $DIR/ran")
	s.order("a", commit, false)
	s.startedByHand("a", commit, host, 1)
	s.append(eventlog.Transition{DeliveryID: "a", Attempt: 1, Actor: "kim", Data: eventlog.Canceled{Reason: "no"}})
	s.run()
	s.expect("a", "forwarded 1", "started 1", "canceled 1", "failed 1")
	if f := last[eventlog.Failed](s, "a"); f.Error != "canceled by kim: no" || s.read("ran") != "" {
		t.Errorf("failed: %+v, and ran %q", f, s.read("ran"))
	}
}

// What was live is ordered again in the commit that records the failure, once, also
// where the answer to that commit is lost.
func TestRestore_PutsBackWhatWasLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	restore := func(o *Options) { o.Deployment.Restore = true }
	first := s.push("echo first >> $DIR/ran")
	s.order("a", first, false)
	s.run(restore)
	s.order("b", s.push("exit 3"), false)
	s.run(restore, losing[eventlog.Failed])
	s.expect("b", "forwarded 1", "started 1", "failed 1")
	s.expect("a", "forwarded 1", "started 1", "deployed 1", "replayed 2")
	replayed := last[eventlog.Replayed](s, "a")
	if d := replayed.Deployments; len(d) != 1 || d[0].Commit != first || !d[0].Restores || d[0].Attempt != 2 {
		t.Fatalf("ordered %+v", replayed)
	}
	for e, err := range s.log.Find(t.Context(), eventlog.Filter{Instance: instance, DeliveryID: "a", Types: []eventlog.Type{eventlog.TypeReplayed}}) {
		if err != nil {
			t.Fatal(err)
		}
		s.enqueue(e)
	}
	s.run(restore)
	s.expect("a", "forwarded 1", "started 1", "deployed 1", "replayed 2", "started 2", "deployed 2")
	if s.read("ran") != "first\nfirst\n" {
		t.Errorf("ran %q", s.read("ran"))
	}
}

// A freeze keeps pushes from going live, and not what was live from coming back.
func TestRestore_PassesAFreeze(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.push("echo first >> $DIR/ran")
	s.order("a", first, false)
	s.run()
	c := &control{frozen: &projections.Hold{Position: 1, Reason: "the finals", Actor: "sam"}}
	s.order("b", s.push("echo pushed >> $DIR/ran"), false)
	events := s.append(eventlog.Transition{DeliveryID: "a", Attempt: 2, Actor: restorer, Data: eventlog.Replayed{
		Reason: "r", Deployments: []eventlog.Assignment{{Deployment: slug, Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: first, Restores: true}}},
	}})
	s.enqueue(events[0])
	stop := s.start(c.of)
	s.wait("what was live runs again", func() bool { return s.read("ran") == "first\nfirst\n" })
	stop()
	s.expect("b", "forwarded 1")
}

// Where something else has gone live meanwhile, nothing is put back over it.
func TestRestore_GivesWayToWhatWentLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.push("true")
	s.order("a", first, false)
	s.run()
	s.order("b", s.push("true"), false)
	s.run()
	events := s.append(eventlog.Transition{DeliveryID: "a", Attempt: 2, Actor: restorer, Data: eventlog.Replayed{
		Reason: "r", Deployments: []eventlog.Assignment{{Deployment: slug, Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: first, Restores: true}}},
	}})
	s.enqueue(events[0])
	s.run()
	s.expect("a", "forwarded 1", "started 1", "deployed 1", "replayed 2", "voided 2")
}

// A push that waits is not dropped for what would be put back, however their commits lie.
func TestRestore_SupersedesNoPush(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.push("true")
	s.order("a", first, false)
	s.run()
	s.git(s.pusher(), "checkout", "--quiet", "--orphan", "other")
	s.order("b", s.push("touch $DIR/ran"), false)
	events := s.append(eventlog.Transition{DeliveryID: "a", Attempt: 2, Actor: restorer, Data: eventlog.Replayed{
		Reason: "r", Deployments: []eventlog.Assignment{{Deployment: slug, Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: first, Restores: true}}},
	}})
	s.enqueue(events[0])
	s.run(func(o *Options) { o.Deployment.LatestOnly = true })
	s.expect("b", "forwarded 1", "started 1", "deployed 1")
	s.expect("a", "forwarded 1", "started 1", "deployed 1", "replayed 2", "voided 2")
}

// lossy loses the answer to the first commit of a T.
type lossy[T eventlog.Data] struct {
	Log
	lost bool
}

func (l *lossy[T]) Append(ctx context.Context, g eventlog.Group) ([]eventlog.Event, error) {
	events, err := l.Log.Append(ctx, g)
	if _, ok := g.Transitions[0].Data.(T); ok && err == nil && !l.lost {
		l.lost = true
		return nil, io.ErrUnexpectedEOF
	}
	return events, err
}

func losing[T eventlog.Data](o *Options) { o.Log = &lossy[T]{Log: o.Log} }
