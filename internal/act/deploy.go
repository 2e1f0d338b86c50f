package act

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Deploy is what a deploy by hand asks for.
type Deploy struct {
	// ID is the delivery's; empty is a new one.
	ID string
	// Ref is what to deploy; empty is the tip of the deployment's branch.
	Ref string
	// IfNewer keeps Ref from running where it is behind what is live by then.
	IfNewer bool
	// Override runs it though the deployment is frozen or pinned, for the reason.
	Override bool
	Reason   string
}

// manualDeploy is the body of a delivery by hand: the part of a push that the router
// reads, and what was asked for.
type manualDeploy struct {
	Ref          string `json:"ref"`
	After        string `json:"after"`
	Deployment   string `json:"deployment"`
	RequestedRef string `json:"requested_ref,omitempty"`
	Repository   struct {
		FullName string `json:"full_name"`
	} `json:"repository"`
}

// enabled is a deployment to which something can be deployed.
func (p *Person) enabled(slug string) (*config.Deployment, error) {
	d, err := answer.Deployment(p.Config, slug)
	if err == nil && !d.Enabled {
		err = &Error{Err: fmt.Errorf("deployment %q is disabled", slug), Hint: "set enabled = true and restart the daemon"}
	}
	return d, err
}

// Deploy resolves the reference and puts the delivery in the main queue.
func (p *Person) Deploy(ctx context.Context, slug string, o Deploy) (id, commit string, err error) {
	d, err := p.enabled(slug)
	if err != nil {
		return "", "", err
	}
	commit, err = p.Commit(ctx, d, o.Ref)
	if err != nil {
		return "", "", err
	}
	own := manualDeploy{Ref: "refs/heads/" + d.Branch, After: commit, Deployment: slug, RequestedRef: o.Ref}
	own.Repository.FullName = d.Repository
	body, err := json.Marshal(own)
	if err != nil {
		return "", "", err
	}
	now := time.Now()
	entry := delivery.Delivery{
		ID: cmp.Or(o.ID, NewID(now)), Event: "push", ContentType: "application/json", ReceivedAt: now.UTC(),
		Source: string(eventlog.SourceCLI), Actor: p.Name, Deployment: slug, Forced: o.Ref != "" && !o.IfNewer, Override: o.Override, Reason: o.Reason,
		Salt: delivery.NewSalt(), Body: body,
	}
	if err := p.Enqueue(ctx, entry); err != nil {
		return "", "", err
	}
	return entry.ID, commit, nil
}

// Rollback is what was ordered to go back.
type Rollback struct {
	Commit, DeliveryID string
	// Pinned says that the pin is in the log, also where the deploy could not be ordered.
	Pinned bool
}

// Rollback pins a deployment to what was live before, or to the commit or delivery
// `to`, and deploys that, under the ID; an empty one is new.
func (p *Person) Rollback(ctx context.Context, id, slug, to, why string) (r Rollback, err error) {
	if _, err := p.enabled(slug); err != nil {
		return r, err // before the pin, which would stay
	}
	d, err := p.state(ctx, slug)
	if err != nil {
		return r, err
	}
	if r.Commit, err = p.wasLive(ctx, d, slug, to); err != nil {
		return r, err
	}
	// The pin comes first: nothing that is pushed in between may go over it.
	r.DeliveryID = cmp.Or(id, NewID(time.Now()))
	if err := p.order(ctx, r.DeliveryID, slug, eventlog.Pinned{Commit: r.Commit, Reason: why}); err != nil {
		return r, err
	}
	r.Pinned = true
	if _, _, err := p.Deploy(ctx, slug, Deploy{ID: r.DeliveryID, Ref: r.Commit, Override: true, Reason: why}); err != nil {
		return r, &Error{Err: err, Hint: fmt.Sprintf("%s is pinned already: run rollback again, or unpin it", slug)}
	}
	return r, nil
}

// wasLive is the commit to go back to.
func (p *Person) wasLive(ctx context.Context, d projections.Deployment, slug, to string) (string, error) {
	if d.Live == nil {
		return "", &Error{Err: fmt.Errorf("nothing was ever live at %s, so there is nothing to go back to", slug)}
	}
	if to == "" && d.Failure != nil {
		return d.Live.Commit, nil
	}
	history := "`" + p.Command("history", slug) + "` lists what was"
	if to == "" {
		before, err := Before(ctx, p.Log, p.Models, p.Config.Instance, slug, *d.Live)
		if err == nil && before == "" {
			err = &Error{Err: fmt.Errorf("nothing else was live at %s before %s", slug, words.ShortCommit(d.Live.Commit)), Hint: history}
		}
		return before, err
	}
	found := map[string]string{} // a line for each commit
	for a, err := range deployed(ctx, p.Models, p.Config.Instance, slug) {
		if err != nil {
			return "", err
		}
		if a.DeliveryID == to || a.Commit == strings.ToLower(to) {
			return a.Commit, nil
		}
		if len(to) >= answer.MinAbbreviation && (strings.HasPrefix(a.Commit, strings.ToLower(to)) || strings.HasPrefix(a.DeliveryID, to)) {
			found[a.Commit] = fmt.Sprintf("%s  %s  delivery %s", a.Commit, words.Clock(a.EndedAt), a.DeliveryID)
		}
	}
	switch commits := slices.Sorted(maps.Keys(found)); {
	case len(commits) == 1:
		return commits[0], nil
	case len(commits) > 1:
		return "", answer.AmbiguousError(to, slices.Sorted(maps.Values(found)))
	case len(to) < answer.MinAbbreviation:
		history = fmt.Sprintf("an abbreviation has at least %d characters; %s", answer.MinAbbreviation, history)
	}
	return "", &Error{Err: fmt.Errorf("%q was never live at %s", to, slug), Hint: history + "; deploy --ref deploys any commit"}
}

// deployed are the runs that ever put something live, the newest first. They are read as far
// as they are asked for: a page asks, and there may be many.
func deployed(ctx context.Context, models *projections.Projector, instance, slug string) iter.Seq2[projections.Attempt, error] {
	return func(yield func(projections.Attempt, error) bool) {
		f := projections.AttemptFilter{Instance: instance, Deployment: slug, Outcomes: []projections.Outcome{projections.OutcomeDeployed}, Limit: 100}
		for {
			runs, err := models.Attempts(ctx, f)
			if err != nil {
				yield(projections.Attempt{}, err)
				return
			}
			for _, a := range runs {
				if !yield(a, nil) {
					return
				}
				f.Before = projections.Place{Position: a.AssignedPosition, Attempt: a.Attempt}
			}
			if len(runs) < f.Limit {
				return
			}
		}
	}
}

// Before is the commit that was live before the one that is; "" where there is none. Where
// that was put back by a rollback, it is what was live before it was first put there:
// what somebody went back from is no way back.
func Before(ctx context.Context, log *eventlog.Log, models *projections.Projector, instance, slug string, live projections.Mark) (string, error) {
	back := map[string]bool{} // the deliveries of rollbacks: each is that of its pin, too
	for e, err := range log.Find(ctx, eventlog.Filter{Instance: instance, Deployment: slug, Types: []eventlog.Type{eventlog.TypePinned}}) {
		if err != nil {
			return "", err
		}
		back[e.DeliveryID] = true
	}
	since := live.Position
	if back[live.DeliveryID] {
		for a, err := range deployed(ctx, models, instance, slug) {
			if err != nil {
				return "", err
			}
			if a.Commit == live.Commit && !back[a.DeliveryID] {
				since = a.EndedPosition
				break
			}
		}
	}
	for a, err := range deployed(ctx, models, instance, slug) {
		if err != nil {
			return "", err
		}
		if a.EndedPosition < since && a.Commit != live.Commit {
			return a.Commit, nil
		}
	}
	return "", nil
}
