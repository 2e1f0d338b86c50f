// Package recovery finds pushes that GitHub did not deliver. Poll asks the remotes for
// the tips of the branches, and makes a delivery of one that the log knows nothing of;
// Deliveries asks GitHub to send again what it says has failed. Both only put into the
// main queue, or have put, what takes the road of every push from there.
package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

// Actor is that of a delivery that nobody ordered.
const Actor = "recovery"

// Log is what is asked of the event log.
type Log interface {
	FindEach(ctx context.Context, filters []eventlog.Filter) ([][]eventlog.Event, error)
}

// Options are what both ways of recovering need.
type Options struct {
	Instance string
	Log      Log
	Logger   *slog.Logger
	// Now and Sleep are the clock; nil are those of this machine.
	Now   func() time.Time
	Sleep func(ctx context.Context, d time.Duration) bool
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = retry.Sleep
	}
}

// Branch is one that a deployment follows.
type Branch struct{ Deployment, Repository, Branch string }

// Missed is a tip of which the log knows nothing.
type Missed struct {
	Repository  string   `json:"repository"`
	Branch      string   `json:"branch"`
	Commit      string   `json:"commit"`
	Deployments []string `json:"deployments"`
}

// maxKnown bounds the deliveries of one commit that are looked at.
const maxKnown = 100

// missed says which of the deployments that follow a branch were told nothing of its
// tip: no push of it, and no deploy of it by hand. One that has never run anything is
// none of them, nor is one where the tip is live.
func missed(ctx context.Context, o Options, branches []Branch, tip string) (*Missed, error) {
	b := branches[0]
	filters := []eventlog.Filter{{Instance: o.Instance, Commit: tip, Whole: true, Types: []eventlog.Type{eventlog.TypeReceived}, Newest: true, Limit: maxKnown}}
	for _, b := range branches {
		for _, last := range []eventlog.Type{eventlog.TypeStarted, eventlog.TypeDeployed} {
			filters = append(filters, eventlog.Filter{Instance: o.Instance, Deployment: b.Deployment, Types: []eventlog.Type{last}, Newest: true, Limit: 1})
		}
	}
	found, err := o.Log.FindEach(ctx, filters)
	if err != nil {
		return nil, fmt.Errorf("look whether the log knows the tip of %s: %w", b.Branch, err)
	}
	byHand := []string{}
	for _, e := range found[0] {
		data, err := e.Decode()
		if err != nil {
			return nil, err
		}
		r, ok := data.(eventlog.Received)
		switch {
		case !ok || r.Commit != tip || r.Ref != "refs/heads/"+b.Branch || !router.SameRepository(r.Repository, b.Repository):
		case r.Source != eventlog.SourceCLI:
			return nil, nil
		default:
			byHand = append(byHand, e.DeliveryID)
		}
	}
	ordered := map[string]bool{}
	if len(byHand) > 0 {
		orders, err := o.Log.FindEach(ctx, []eventlog.Filter{{Instance: o.Instance, DeliveryIDs: byHand, Types: []eventlog.Type{eventlog.TypeForwarded}}})
		if err != nil {
			return nil, fmt.Errorf("look for deploys of the tip of %s by hand: %w", b.Branch, err)
		}
		for _, e := range orders[0] {
			ordered[e.DeploymentSlug()] = true
		}
	}
	m := Missed{Repository: b.Repository, Branch: b.Branch, Commit: tip}
	for i, b := range branches {
		started, deployed := found[1+2*i], found[2+2*i]
		live := ""
		if len(deployed) > 0 {
			data, err := deployed[0].Decode()
			if err != nil {
				return nil, err
			}
			if d, ok := data.(eventlog.Deployed); ok {
				live = d.Commit
			}
		}
		if len(started) > 0 && live != tip && !ordered[b.Deployment] {
			m.Deployments = append(m.Deployments, b.Deployment)
		}
	}
	if len(m.Deployments) == 0 {
		return nil, nil
	}
	slices.Sort(m.Deployments)
	return &m, nil
}

// Delivery is what stands in for the push that did not come.
func (m Missed) Delivery(id, actor string, now time.Time) (delivery.Delivery, error) {
	push := map[string]any{
		"ref": "refs/heads/" + m.Branch, "after": m.Commit, "repository": map[string]string{"full_name": m.Repository}, "deployments": m.Deployments,
	}
	body, err := json.Marshal(push)
	if err != nil {
		return delivery.Delivery{}, err
	}
	return delivery.Delivery{
		ID: id, Event: "push", ContentType: "application/json", ReceivedAt: now.UTC(), Source: string(eventlog.SourceRecovery),
		Actor: actor, Salt: delivery.NewSalt(), Body: body,
	}, nil
}

// troubles are what keeps something from being asked now, by what it is.
type troubles struct {
	mu  sync.Mutex
	now map[string]string
}

func (t *troubles) set(what string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.now, what)
		return
	}
	if t.now == nil {
		t.now = map[string]string{}
	}
	t.now[what] = err.Error()
}

// list is what stands now, in order.
func (t *troubles) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for what, why := range t.now {
		all = append(all, what+": "+why)
	}
	slices.Sort(all)
	return all
}
