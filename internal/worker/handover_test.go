package worker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
)

// handing is a handler whose runs go on in the next process.
type handing struct{}

func (handing) Plan(context.Context, handlers.Job) (handlers.Plan, error) {
	return handlers.Plan{Steps: []handlers.Step{
		{Name: "build", Run: func(context.Context, handlers.Env) error { return nil }},
		{Name: "switch", Run: func(context.Context, handlers.Env) error { return handlers.ErrHandedOver }},
	}}, nil
}

// resumer says of every run what it is told to; one without an answer waits.
type resumer struct {
	waits, handedOver bool
	err               error
	settled           *int
}

func (r resumer) Resume(ctx context.Context, _ string, _ int, _ func() error) (bool, error) {
	if r.waits {
		<-ctx.Done()
	}
	return r.handedOver, r.err
}

func (r resumer) Settle() { *r.settled++ }

func TestHandedOverRunIsEndedByTheNextProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit, settled := s.push("echo fine"), 0
	with := func(r resumer) func(o *Options) {
		r.settled = &settled
		return func(o *Options) { o.Handler, o.Resumer = handing{}, r }
	}
	// handOver runs a process that hands over, and one that is ended before it can tell.
	handOver := func(delivery string) {
		s.order(delivery, commit, true)
		for range 2 {
			stop := s.start(with(resumer{waits: true}))
			s.wait("it is handed over", func() bool { return s.exists("runs/" + slug + "/" + delivery + "-1.handed-over.json") })
			stop()
		}
		s.expect(delivery, "forwarded 1", "started 1")
	}
	handOver("up")
	s.run(with(resumer{handedOver: true}))
	s.expect("up", "forwarded 1", "started 1", "deployed 1")
	if d := last[eventlog.Deployed](s, "up"); d.Commit != commit || len(d.Steps) != 2 || d.Steps[1].Result != string(handlers.OK) || d.RunLogDigest == "" {
		t.Errorf("deployed: %+v", d)
	}
	if settled == 0 || s.exists("runs/"+slug+"/up-1.handed-over.json") {
		t.Errorf("it is not settled: %d", settled)
	}

	handOver("down")
	s.run(with(resumer{handedOver: true, err: errors.New("it did not come up")}))
	s.expect("down", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "down"); f.Step != "switch" || f.Error != "it did not come up" || len(f.Steps) != 2 {
		t.Errorf("failed: %+v", f)
	}

	// Killed before it kept how the steps went.
	s.order("killed", commit, true)
	s.startedByHand("killed", commit, host, 1)
	s.run(with(resumer{handedOver: true}))
	s.expect("killed", "forwarded 1", "started 1", "deployed 1")

	// Killed before it handed over: that is never retried.
	s.order("lost", commit, true)
	s.startedByHand("lost", commit, host, 1)
	s.run(with(resumer{}))
	s.expect("lost", "forwarded 1", "started 1", "interrupted 1", "failed 1")
	if f := last[eventlog.Failed](s, "lost"); !strings.Contains(f.Error, "never retried") {
		t.Errorf("failed: %+v", f)
	}
	s.checkRuns()
}
