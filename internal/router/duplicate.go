package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// duplicateWithin is how far apart two hooks' deliveries of one push may come.
const duplicateWithin = 10 * time.Minute

// maxTwins bounds the earlier pushes of a commit that are looked at.
const maxTwins = 100

// pushKey is what the deliveries of one push have in common, whichever hook (of
// the repository, of the organisation) sent them.
type pushKey struct{ repository, ref, before, after string }

// key is false for what orders nothing, for what does not say from which commit it
// moved the branch (but for a tip that was found), and for a deploy by hand, which is
// meant each time.
func (d Decision) key() (pushKey, bool) {
	p := d.push
	return pushKey{lowerASCII(p.repository), p.ref, lowerASCII(p.before), p.commit()},
		len(d.Forwards) > 0 && d.Received.Source != eventlog.SourceCLI && (d.found() || names.Commit(lowerASCII(p.before)))
}

// found says that the delivery is of a tip that was found: see found.
func (d Decision) found() bool { return found(d.Received.Source, d.Received.HookID) }

func (k pushKey) sameBranch(o pushKey) bool { return k.repository == o.repository && k.ref == o.ref }

// mayBe says whether the two may be of one push: a tip that was found has no before.
func (k pushKey) mayBe(o pushKey) bool {
	return k == o || k.sameBranch(o) && k.after == o.after && (k.before == "" || o.before == "")
}

// twin is an earlier delivery of the same push.
type twin struct {
	eventlog.Received
	id string
	// position is that of the received event.
	position int64
	state    DeliveryState
}

// found says that the twin is a tip that was found: see found.
func (t twin) found() bool { return found(t.Source, t.HookID) }

// withoutDuplicates leaves out of the decision what an earlier delivery of the same
// push has put live, or is about to. Where that is everything, the delivery is
// voided. After one that failed it is deployed, but for a tip that was found: nobody asked for that again.
func (d Decision) withoutDuplicates(twins []twin) Decision {
	var fresh []eventlog.Assignment
	for _, a := range d.Forwards {
		i := slices.IndexFunc(twins, func(t twin) bool {
			p, ok := t.state.Parts[a.Deployment]
			return ok && p.Assignment.Commit == a.Commit && (d.found() || p.Open() || p.Status == StatusDeployed)
		})
		if i < 0 {
			fresh = append(fresh, a)
			continue
		}
		t := twins[i]
		became := t.state.Parts[a.Deployment].describe(a.Deployment)
		switch {
		case d.found():
			d.Void = void(eventlog.ReasonDuplicate,
				"delivery %s is of the same commit of the same branch, and %s; the tip was found at the remote while that one was on its way, and would run if nothing had come",
				t.id, became)
		case t.found():
			d.Void = void(eventlog.ReasonDuplicate,
				"delivery %s was made in place of this push, which had not come, and %s; it would run after one that failed", t.id, became)
		default:
			d.Void = void(eventlog.ReasonDuplicate,
				"delivery %s is the same push (repository, ref, before and after), by another hook, and %s; it would run after one that failed, or more than %d minutes later",
				t.id, became, duplicateWithin/time.Minute)
		}
		d.Void.SupersededBy, d.Void.Commit = t.id, a.Commit
	}
	if d.Forwards = fresh; len(fresh) > 0 {
		d.Void = nil
	}
	return d
}

// twins finds the earlier deliveries of the same push, in order. Of a tip that was
// found nobody knows from where the branch was moved, nor when: any of the commit is.
func (r *Router) twins(ctx context.Context, w work, key pushKey) ([]twin, error) {
	d := w.delivery
	twins, err := r.pushes(ctx, key, key.after, w.same)
	if err != nil {
		return nil, err
	}
	var before string
	twins = slices.DeleteFunc(twins, func(t twin) bool {
		// Its own events may have come since it was looked up, by another router.
		if err != nil || t.id == d.ID || len(t.state.Parts) == 0 {
			return true
		}
		if w.decision.found() || t.found() {
			return false
		}
		if t.ReceivedAt.Sub(d.ReceivedAt).Abs() > duplicateWithin {
			return true
		}
		before, err = r.before(ctx, t)
		return before != key.before
	})
	if err != nil || len(twins) == 0 || w.decision.found() {
		return twins, err
	}
	// A branch that was moved back meanwhile was moved forward again: that is
	// another push. A second delivery of the push that led to `before` is none.
	found, err := r.o.Log.FindEach(ctx, []eventlog.Filter{r.pushesTo(key.before, twins[0].position)})
	if err != nil {
		return nil, fmt.Errorf("look whether the branch was moved back: %w", err)
	}
	back, err := r.pushes(ctx, key, key.before, found[0])
	if err != nil {
		return nil, err
	}
	for _, b := range back {
		if b.state.Void == nil || b.state.Void.Reason != eventlog.ReasonDuplicate {
			twins = slices.DeleteFunc(twins, func(t twin) bool { return t.position < b.position })
		}
	}
	return twins, nil
}

// pushesTo chooses the newest pushes to a commit after a position.
func (r *Router) pushesTo(commit string, after int64) eventlog.Filter {
	return eventlog.Filter{
		Instance: r.o.Instance, Commit: asNamed(commit), Whole: true, After: after, Types: []eventlog.Type{eventlog.TypeReceived}, Newest: true, Limit: maxTwins,
	}
}

// asNamed is the commit as events name it: the zeros of a push that deletes its
// branch are none.
func asNamed(commit string) string {
	if strings.Trim(commit, "0") == "" {
		return ""
	}
	return commit
}

// pushes picks from what pushesTo has found the deliveries of pushes of the key's branch.
func (r *Router) pushes(ctx context.Context, key pushKey, commit string, events []eventlog.Event) ([]twin, error) {
	commit = asNamed(commit)
	var found []twin
	var ids []string
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return nil, err
		}
		received, ok := data.(eventlog.Received)
		if ok && received.Commit == commit && received.Ref == key.ref && lowerASCII(received.Repository) == key.repository && received.Source != eventlog.SourceCLI {
			found = append(found, twin{Received: received, id: e.DeliveryID, position: e.Position})
			ids = append(ids, e.DeliveryID)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	theirs, err := r.o.Log.FindEach(ctx, []eventlog.Filter{r.ofDeliveries(ids)})
	if err != nil {
		return nil, fmt.Errorf("look for other deliveries of the push: %w", err)
	}
	known := byDelivery(theirs[0])
	var told []twin
	for _, t := range found {
		if t.state, err = Fold(known[t.id]); err == nil { // else it is of a newer binary
			told = append(told, t)
		}
	}
	return told, nil
}

// before is the commit from which a past push moved its branch, as its body says;
// empty where the body is gone.
func (r *Router) before(ctx context.Context, t twin) (string, error) {
	stored, err := r.o.Log.Payload(ctx, t.PayloadDigest)
	if errors.Is(err, eventlog.ErrNoPayload) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the payload of delivery %s: %w", t.id, err)
	}
	p, err := parsePayload(delivery.Delivery{Body: stored.Body, ContentType: stored.ContentType})
	if err != nil {
		return "", nil
	}
	return lowerASCII(p.before), nil
}
