// Package reporter tells GitHub what becomes of commits: a commit status for each
// deployment, and GitHub's deployments where that is asked for. It is a follower of
// the log by way of an outbox, and says what the fold says of an attempt.
package reporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/links"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Channel is the reporter's name in the outbox.
const Channel = "reporter"

// GitHub is what is needed of its API. An error that waiting does not fix is a
// *github.Error that is not Temporary.
type GitHub interface {
	CreateStatus(ctx context.Context, repository, commit string, s github.Status) error
	CreateDeployment(ctx context.Context, repository, commit, environment, description string) (github.Deployment, error)
	CreateDeploymentStatus(ctx context.Context, repository string, deployment int64, s github.DeploymentStatus) error
	Deployments(ctx context.Context, repository, environment, commit string) ([]github.Deployment, error)
}

// Log is what is needed of the event log.
type Log interface {
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
}

// Target is where the runs of a deployment are told of.
type Target struct {
	// Repository is "owner/name".
	Repository string
	// URL is the live site, or "".
	URL string
}

// Options configure a Reporter. All but Origin are required.
type Options struct {
	Instance string
	// Origin is where this deployer's pages are, without a trailing slash.
	Origin  string
	Targets map[string]Target // by slug
	// Deployments says that GitHub's deployments are made, too.
	Deployments bool
	// Mask covers the secrets in a text.
	Mask   func(string) string
	GitHub GitHub
	Log    Log
	Pool   *pgxpool.Pool
}

// Reporter says what an outbox owes to GitHub (Owe), and says it (Send).
type Reporter struct {
	o Options
	// slugs are those whose deployments are being told of.
	slugs map[string]*sync.Mutex
}

// New returns a Reporter.
func New(o Options) *Reporter {
	r := &Reporter{o: o, slugs: map[string]*sync.Mutex{}}
	for slug := range o.Targets {
		r.slugs[slug] = new(sync.Mutex)
	}
	return r
}

// body is what an item of the outbox holds: a commit status, or a state of a deployment.
type body struct {
	Slug       string        `json:"slug"`
	Repository string        `json:"repository"`
	Commit     string        `json:"commit"`
	Status     github.Status `json:"status"`
	// Run names the run for which GitHub's deployment is; empty for a commit status.
	Run string `json:"run,omitempty"`
	// URL is that of the live site.
	URL string `json:"url,omitempty"`
}

// Owe says what the events give: for each attempt that one of them changes, what the fold
// says of it as of that event.
func (r *Reporter) Owe(ctx context.Context, events []eventlog.Event) ([]outbox.Item, error) {
	ids := map[string]bool{}
	for _, e := range events {
		ids[e.DeliveryID] = true
	}
	var items []outbox.Item
	for chunk := range slices.Chunk(keys(ids), 500) {
		state := projections.NewState()
		for e, err := range r.o.Log.Find(ctx, eventlog.Filter{Instance: r.o.Instance, DeliveryIDs: chunk}) {
			if err != nil {
				return nil, fmt.Errorf("read the deliveries: %w", err)
			}
			if e.Position > events[len(events)-1].Position {
				break
			}
			if err := state.Apply(&e); err != nil {
				return nil, err
			}
			if e.Position < events[0].Position {
				continue
			}
			changed, err := changes(e)
			if err != nil {
				return nil, err
			}
			for _, of := range changed {
				if a, ok := state.Attempt(r.o.Instance, e.DeliveryID, of.Deployment, of.Attempt); ok {
					items = append(items, r.items(state, a, e)...)
				}
			}
		}
	}
	return items, nil
}

func keys(set map[string]bool) (list []string) {
	for key := range set {
		list = append(list, key)
	}
	slices.Sort(list)
	return list
}

// changes are the attempts whose state an event changes.
func changes(e eventlog.Event) ([]eventlog.Assignment, error) {
	switch e.Type {
	case eventlog.TypeStarted, eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeInterrupted, eventlog.TypeVoided, eventlog.TypeCanceled:
		return []eventlog.Assignment{{Deployment: e.DeploymentSlug(), Attempt: e.Attempt}}, nil
	}
	return e.Assignments()
}

// items are what there is to say of an attempt.
func (r *Reporter) items(state *projections.State, a projections.Attempt, e eventlog.Event) []outbox.Item {
	target, known := r.o.Targets[a.Deployment]
	if !known || !names.Commit(a.Commit) {
		return nil
	}
	what, why := stateOf(a)
	b := body{Slug: a.Deployment, Repository: target.Repository, Commit: a.Commit, Status: github.Status{
		State: what, Context: "durhack-deployer/" + a.Deployment, Description: describe(r.o.Mask(why)), TargetURL: links.Delivery(r.o.Origin, a.DeliveryID),
	}}
	item := func(key, scope string, b body) outbox.Item {
		encoded, _ := json.Marshal(b) // strings always can be
		return outbox.Item{Key: key, Scope: scope + " of " + target.Repository, Position: e.Position, At: e.RecordedAt, Body: encoded}
	}
	list := []outbox.Item{item(fmt.Sprintf("status %s %s %s", target.Repository, a.Commit, a.Deployment), "commit statuses", b)}
	if began(state, a) && r.o.Deployments {
		b.Run, b.URL = fmt.Sprintf("event %d, delivery %s", a.AssignedPosition, a.DeliveryID), target.URL
		list = append(list, item("deployment "+a.Deployment+" "+b.Run, "deployments", b))
	}
	return list
}

// began says that a run of the attempt's order has started.
func began(state *projections.State, a projections.Attempt) bool {
	for _, other := range state.Attempts(a.Instance) {
		if other.DeliveryID == a.DeliveryID && other.Deployment == a.Deployment && other.AssignedPosition == a.AssignedPosition && other.StartedPosition != 0 {
			return true
		}
	}
	return false
}

// Send says an item to GitHub.
func (r *Reporter) Send(ctx context.Context, i outbox.Item) error {
	var b body
	if err := json.Unmarshal(i.Body, &b); err != nil {
		return outbox.Refused(fmt.Errorf("read what is to be said: %w", err))
	}
	var err error
	if b.Run == "" {
		err = r.o.GitHub.CreateStatus(ctx, b.Repository, b.Commit, b.Status)
	} else {
		err = r.deployment(ctx, i, b)
	}
	e, ok := errors.AsType[*github.Error](err)
	switch {
	case !ok:
		return err
	case !e.Temporary: // whichever of its requests it was: the scope says what cannot be done
		return outbox.Refused(errors.New(e.Reason()))
	case !e.RetryAt.IsZero():
		return outbox.After(time.Until(e.RetryAt), err)
	}
	return err
}
