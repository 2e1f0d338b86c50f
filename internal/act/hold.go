package act

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Pin keeps a deployment at the commit that is live. Where live is not empty, that is the
// one that the person has seen there. It returns what is live, and the run that goes on, nil
// where none does: it goes live all the same.
func (p *Person) Pin(ctx context.Context, id, slug, live, why string) (is projections.Mark, running *projections.Mark, err error) {
	d, err := p.state(ctx, slug)
	if err != nil {
		return is, nil, err
	}
	if d.Live == nil {
		return is, nil, &Error{Err: fmt.Errorf("nothing is live at %s, so there is no commit to pin it to", slug), Hint: "`" + p.Command("freeze", slug, "--reason", "...") + "` lets pushes wait"}
	}
	if live != "" && live != d.Live.Commit {
		return is, nil, &Error{Err: fmt.Errorf("%s is live at %s meanwhile, and not %s", words.ShortCommit(d.Live.Commit), slug, words.ShortCommit(live)), Hint: "look at it again, and then pin it"}
	}
	return *d.Live, d.Running, p.order(ctx, cmp.Or(id, NewID(time.Now())), slug, eventlog.Pinned{Commit: d.Live.Commit, Reason: why})
}

// Unpin ends a pin. It returns the newest attempt that was voided since the deployment
// was last not pinned, because of that; nil where there is none, or its commit is live.
func (p *Person) Unpin(ctx context.Context, id, slug, why string) (missed *projections.Attempt, err error) {
	d, err := p.state(ctx, slug)
	if err != nil {
		return nil, err
	}
	if !d.Pinned.Active(time.Now()) {
		return nil, &Error{Err: fmt.Errorf("%s is not pinned", slug)}
	}
	if missed, err = p.missed(ctx, d); err != nil {
		return nil, err
	}
	return missed, p.order(ctx, cmp.Or(id, NewID(time.Now())), slug, eventlog.Unpinned{Reason: why})
}

func (p *Person) missed(ctx context.Context, d projections.Deployment) (*projections.Attempt, error) {
	since := int64(0) // a pin may have taken the place of another
	for e, err := range p.Log.Find(ctx, eventlog.Filter{
		Instance: p.Config.Instance, Deployment: d.Slug, Types: []eventlog.Type{eventlog.TypeUnpinned}, Newest: true, Limit: 1,
	}) {
		if err != nil {
			return nil, err
		}
		since = e.Position
	}
	voided, err := p.Models.Attempts(ctx, projections.AttemptFilter{
		Instance: p.Config.Instance, Deployment: d.Slug, Outcomes: []projections.Outcome{projections.OutcomeVoided}, Limit: 1000,
	})
	for _, a := range voided {
		if a.Reason == string(eventlog.ReasonPinned) && a.EndedPosition > since {
			if d.Live != nil && a.Commit == d.Live.Commit { // by an override
				return nil, err
			}
			return &a, err
		}
	}
	return nil, err
}

// Freeze lets pushes wait, at one deployment, or at all where slug is empty; until may
// be zero.
func (p *Person) Freeze(ctx context.Context, id, slug string, until time.Time, why string) error {
	if err := p.oneOrAll(slug); err != nil {
		return err
	}
	return p.order(ctx, cmp.Or(id, NewID(time.Now())), slug, eventlog.Frozen{Until: until, Reason: why})
}

// Thaw ends the freeze of a deployment, or with an empty slug that of all. allStill
// says that the deployment stays frozen with all others.
func (p *Person) Thaw(ctx context.Context, id, slug, why string) (allStill bool, err error) {
	if err := p.oneOrAll(slug); err != nil {
		return false, err
	}
	if _, err := p.Models.Await(ctx, time.Second); err != nil {
		return false, err
	}
	all, one, err := p.Models.Freezes(ctx, p.Config.Instance, slug)
	now := time.Now()
	switch {
	case err != nil:
		return false, err
	case slug == "" && !all.Active(now):
		return false, &Error{Err: errors.New("there is no freeze of all deployments"), Hint: "`" + p.Command("status") + "` says what is frozen; thaw SLUG ends the freeze of one"}
	case slug != "" && !one.Active(now) && all.Active(now):
		return false, &Error{Err: fmt.Errorf("all deployments are frozen, and not %s by itself", slug), Hint: "`" + p.Command("thaw", "--reason", "...") + "` ends that"}
	case slug != "" && !one.Active(now):
		return false, &Error{Err: fmt.Errorf("%s is not frozen", slug)}
	}
	return slug != "" && all.Active(now), p.order(ctx, cmp.Or(id, NewID(now)), slug, eventlog.Thawed{Reason: why})
}

func (p *Person) oneOrAll(slug string) error {
	if slug == "" {
		return nil
	}
	_, err := answer.Deployment(p.Config, slug)
	return err
}

// Run names a run; without an attempt any of the delivery's, and the zero one any.
type Run struct {
	DeliveryID string
	Attempt    int
}

// Cancel ends the run of a deployment that is going on, if it is the one that is meant,
// and returns it.
func (p *Person) Cancel(ctx context.Context, slug, why string, meant Run) (projections.Mark, error) {
	d, err := p.state(ctx, slug)
	if err != nil {
		return projections.Mark{}, err
	}
	run := d.Running
	if run == nil {
		return projections.Mark{}, &Error{Err: fmt.Errorf("nothing runs at %s", slug), Hint: "`" + p.Command("freeze", slug, "--reason", "...") + "` keeps what waits from starting"}
	}
	if meant.DeliveryID != "" && meant.DeliveryID != run.DeliveryID || meant.Attempt > 0 && meant.Attempt != run.Attempt {
		return *run, &Error{Err: fmt.Errorf("this run of %s has ended, and another one goes on", slug), Hint: "`" + p.Command("why", meant.DeliveryID) + "` shows how"}
	}
	_, err = p.Log.Append(ctx, eventlog.Group{
		Transitions: []eventlog.Transition{{
			Instance: p.Config.Instance, DeliveryID: run.DeliveryID, Deployment: slug, Attempt: run.Attempt, Actor: p.Name,
			Data: eventlog.Canceled{Reason: why},
		}},
		Fence: &eventlog.Fence{Instance: p.Config.Instance, Deployment: slug, Position: run.Position},
	})
	switch {
	case errors.Is(err, eventlog.ErrFenced):
		return *run, &Error{Err: fmt.Errorf("the run of %s has ended meanwhile", slug), Hint: "`" + p.Command("why", run.DeliveryID) + "` shows how"}
	case errors.As(err, new(*eventlog.ConflictError)):
		return *run, &Error{Err: errors.New("it was canceled already"), Hint: "`" + p.Command("why", run.DeliveryID) + "` says by whom"}
	case err != nil:
		return *run, fmt.Errorf("append canceled: %w", err)
	}
	return *run, p.Sign(ctx)
}
