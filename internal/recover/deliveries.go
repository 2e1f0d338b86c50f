package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

const (
	// every is how often GitHub is asked what it could not deliver.
	every = 15 * time.Minute
	// maxAsked is how often GitHub is asked to send one delivery again.
	maxAsked = 3
	// comesWithin is how long a delivery that is sent again may take to be in the log;
	// until then the next one is not asked for, so that they come in order.
	comesWithin = 20 * time.Second
	// comesLook is how often the log is looked at meanwhile.
	comesLook = 200 * time.Millisecond
	// maxForwards bounds the past deliveries of a deployment whose hooks are looked at.
	maxForwards = 10
	// onTheWay is how old a delivery must be that is taken for failed: GitHub waits ten
	// seconds for an answer.
	onTheWay = 30 * time.Second
	// maxRead bounds the deliveries that are read for what they are of.
	maxRead = 100
	// overlap is how much of the time before the last look is looked at again, for what was
	// on its way then, and for clocks that differ.
	overlap = 5 * time.Minute
)

// GitHub is what is asked of GitHub's API.
type GitHub interface {
	Hook(ctx context.Context, repository string, id int64) (github.Hook, error)
	Deliveries(ctx context.Context, h github.Hook, since time.Time) ([]github.Delivery, error)
	Push(ctx context.Context, h github.Hook, delivery int64) (github.Push, error)
	Redeliver(ctx context.Context, h github.Hook, delivery int64) error
}

// DeliveriesOptions are those of a Deliveries.
type DeliveriesOptions struct {
	Options
	GitHub GitHub
	// Deployments are the branches that are followed: by the pushes that went to them
	// the log knows the webhooks.
	Deployments []Branch
	// Note, if not nil, notes that a delivery is asked for again, before it is.
	Note func(guid string) error
}

// Kept is how long GitHub keeps deliveries.
const Kept = 3 * 24 * time.Hour

// Deliveries asks GitHub to send again what it could not deliver.
type Deliveries struct {
	o DeliveriesOptions
	troubles
	again  atomic.Int64
	outage *retry.Outage

	mu    sync.Mutex
	asked map[string]int // by GUID
	hooks map[hookID]github.Hook
	// since is, of each hook, from when on there may be something to ask for.
	since map[hookID]time.Time
}

// hookID is a webhook as the log knows it.
type hookID struct {
	repository string
	id         int64
}

// Lost is a push that GitHub could not deliver, and of which the log knows nothing.
type Lost struct {
	GUID string `json:"-"`
	// Hook says whose webhook it is, and Answer what the last attempt came to.
	Hook   string    `json:"hook"`
	SentAt time.Time `json:"sent_at"`
	Answer string    `json:"answer"`
	// Asked is how often it was sent again.
	Asked int `json:"asked"`

	id   int64
	hook github.Hook
}

// Exhausted says that it is not asked for any more.
func (l Lost) Exhausted() bool { return l.Asked >= maxAsked }

// NewDeliveries returns a Deliveries that has asked for nothing yet.
func NewDeliveries(o DeliveriesOptions) *Deliveries {
	o.defaults()
	return &Deliveries{
		o: o, asked: map[string]int{}, hooks: map[hookID]github.Hook{}, since: map[hookID]time.Time{},
		outage: retry.New(o.Logger, slog.LevelWarn, "GitHub cannot be asked what it could not deliver"),
	}
}

// Again counts the deliveries that GitHub was asked for again.
func (d *Deliveries) Again() int64 { return d.again.Load() }

// Troubles say why hooks cannot be asked for.
func (d *Deliveries) Troubles() []string { return d.list() }

// Asked says whether GitHub was asked for the delivery again.
func (d *Deliveries) Asked(guid string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[guid] > 0
}

// Run asks at once, and then every 15 minutes, until ctx ends. An error is one of the log.
func (d *Deliveries) Run(ctx context.Context) error {
	for {
		pause := every
		lost, failed, err := d.Look(ctx, time.Time{})
		if err == nil {
			var more []error
			more, err = d.Ask(ctx, lost)
			failed = append(failed, more...)
		}
		if err != nil {
			return err
		}
		for _, err := range failed {
			if e, ok := errors.AsType[*github.Error](err); ok && e.Temporary {
				pause = max(pause, e.RetryAt.Sub(d.o.Now()))
			}
		}
		if len(failed) == 0 {
			d.outage.Over()
		} else if ctx.Err() == nil {
			d.outage.FailedFor(errors.Join(failed...), pause)
		}
		if !d.o.Sleep(ctx, jitter(pause)) {
			return nil
		}
	}
}

// Look asks GitHub what it could not deliver since a time (zero is since the last
// look), and returns what the log knows nothing of, the oldest first. failed are the
// hooks that could not be asked for.
func (d *Deliveries) Look(ctx context.Context, since time.Time) (lost []Lost, failed []error, err error) {
	hooks, err := d.known(ctx)
	if err != nil {
		return nil, nil, err
	}
	errs, answered := map[hookID]error{}, map[string]bool{} // by repository
	for _, id := range hooks {
		found, err := d.ofHook(ctx, id, since)
		errs[id] = err
		answered[id.repository] = answered[id.repository] || err == nil
		lost = append(lost, found...)
	}
	for _, id := range hooks {
		err := errs[id]
		if e, ok := errors.AsType[*github.Error](err); ok {
			e.ToWrite() // to have it sent again
			// One that was replaced: a push goes through every webhook that there is, under the same GUID.
			if e.Status == http.StatusNotFound && answered[id.repository] {
				err = nil
			}
		}
		d.set(fmt.Sprintf("webhook %d of %s", id.id, id.repository), err)
		if err != nil {
			failed = append(failed, err)
		}
	}
	lost, err = d.unknown(ctx, lost)
	slices.SortFunc(lost, func(a, b Lost) int { return cmp.Or(a.SentAt.Compare(b.SentAt), cmp.Compare(a.id, b.id)) })
	return slices.CompactFunc(lost, func(a, b Lost) bool { return a.GUID == b.GUID }), failed, err
}

// ofHook is what one hook could not deliver.
func (d *Deliveries) ofHook(ctx context.Context, id hookID, since time.Time) ([]Lost, error) {
	d.mu.Lock()
	hook, known := d.hooks[id]
	from := d.since[id]
	d.mu.Unlock()
	if !known {
		var err error
		if hook, err = d.o.GitHub.Hook(ctx, id.repository, id.id); err != nil {
			return nil, err
		}
	}
	now := d.o.Now()
	if !since.IsZero() {
		from = since
	}
	if oldest := now.Add(-Kept); from.Before(oldest) {
		from = oldest
	}
	all, err := d.o.GitHub.Deliveries(ctx, hook, from)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.hooks, id) // it may have been removed
		return nil, err
	}
	d.hooks[id] = hook
	lost := lostOf(all, now)
	next := now.Add(-overlap)
	for i := range lost {
		l := &lost[i]
		l.hook, l.Hook = hook, hook.String()
		l.Asked = max(l.Asked, d.asked[l.GUID])
		if !l.Exhausted() && l.SentAt.Before(next) {
			next = l.SentAt
		}
	}
	d.since[id] = next
	return lost, nil
}

// lostOf groups attempts by what they deliver, and keeps the pushes of which none
// succeeded and the last one is not on its way any more.
func lostOf(all []github.Delivery, now time.Time) []Lost {
	byGUID := map[string][]github.Delivery{}
	for _, a := range all {
		if a.Event == "push" {
			byGUID[a.GUID] = append(byGUID[a.GUID], a)
		}
	}
	var lost []Lost
	for guid, attempts := range byGUID {
		slices.SortFunc(attempts, func(a, b github.Delivery) int {
			return cmp.Or(a.DeliveredAt.Compare(b.DeliveredAt), cmp.Compare(a.ID, b.ID))
		})
		first, last := attempts[0], attempts[len(attempts)-1]
		if slices.ContainsFunc(attempts, func(a github.Delivery) bool { return a.StatusCode >= 200 && a.StatusCode < 300 }) ||
			last.StatusCode == 0 && now.Sub(last.DeliveredAt) < onTheWay {
			continue
		}
		l := Lost{GUID: guid, SentAt: first.DeliveredAt, id: first.ID, Answer: fmt.Sprintf("%d %s", last.StatusCode, last.Status)}
		for _, a := range attempts {
			if a.Redelivery {
				l.Asked++
			}
		}
		lost = append(lost, l)
	}
	return lost
}

// unknown leaves out what the log knows.
func (d *Deliveries) unknown(ctx context.Context, lost []Lost) ([]Lost, error) {
	if len(lost) == 0 {
		return nil, nil
	}
	ids := make([]string, len(lost))
	for i, l := range lost {
		ids[i] = l.GUID
	}
	found, err := d.received(ctx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(lost, func(l Lost) bool { return found[l.GUID] }), nil
}

// OfTips says, by GUID, which of the lost deliveries is the newest of each tip that was missed, too.
func (d *Deliveries) OfTips(ctx context.Context, lost []Lost, tips []Missed) (map[string]Missed, error) {
	of, rest := map[string]Missed{}, slices.Clone(tips)
	for _, l := range slices.Backward(lost[max(0, len(lost)-maxRead):]) {
		if len(rest) == 0 {
			break
		}
		push, err := d.o.GitHub.Push(ctx, l.hook, l.id)
		if err != nil {
			return of, err
		}
		i := slices.IndexFunc(rest, func(m Missed) bool {
			return push.After == m.Commit && push.Ref == "refs/heads/"+m.Branch && router.SameRepository(push.Repository, m.Repository)
		})
		if i >= 0 {
			of[l.GUID] = rest[i]
			rest = slices.Delete(rest, i, i+1)
		}
	}
	return of, nil
}

// received says which deliveries the log knows.
func (d *Deliveries) received(ctx context.Context, ids []string) (map[string]bool, error) {
	found, err := d.o.Log.FindEach(ctx, []eventlog.Filter{{Instance: d.o.Instance, DeliveryIDs: ids, Types: []eventlog.Type{eventlog.TypeReceived}}})
	if err != nil {
		return nil, fmt.Errorf("look which deliveries the log knows: %w", err)
	}
	known := map[string]bool{}
	for _, e := range found[0] {
		known[e.DeliveryID] = true
	}
	return known, nil
}

// Ask asks GitHub for what was lost, in order, each once the one before it has come in.
// Where two in a row do not come, nobody is there to take them, and the rest waits for the next time.
func (d *Deliveries) Ask(ctx context.Context, lost []Lost) (failed []error, err error) {
	missing := 0
	for _, l := range lost {
		if l.Exhausted() {
			d.giveUp(l)
			continue
		}
		d.note(l.GUID, l.Asked+1)
		if d.o.Note != nil {
			if err := d.o.Note(l.GUID); err != nil {
				d.o.Logger.Warn("a push that GitHub sends again will be logged as any other", "delivery", l.GUID, "error", err)
			}
		}
		if err := d.o.GitHub.Redeliver(ctx, l.hook, l.id); err != nil {
			d.note(l.GUID, l.Asked)
			failed = append(failed, err)
			if e, ok := errors.AsType[*github.Error](err); ok && (e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity) {
				continue // it is this one that GitHub does not send
			}
			return failed, nil // a limit, or a permission: the others would fare no better
		}
		d.again.Add(1)
		d.o.Logger.Info("GitHub could not deliver a push, and was asked to send it again", "delivery", l.GUID, "answer", l.Answer, "sent_at", l.SentAt.UTC().Format(time.RFC3339), "asked", l.Asked+1)
		came, err := d.comes(ctx, l.GUID)
		if err != nil || ctx.Err() != nil {
			return failed, err
		}
		if came {
			missing = 0
			continue
		}
		failed = append(failed, fmt.Errorf("delivery %s was asked for again, and did not come within %s: is the listener reached from outside?", l.GUID, comesWithin))
		if missing++; missing == 2 {
			break
		}
	}
	return failed, nil
}

func (d *Deliveries) note(guid string, asked int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[guid] = asked
}

// giveUp tells of a push that is not asked for any more, once.
func (d *Deliveries) giveUp(l Lost) {
	d.mu.Lock()
	told := d.asked[l.GUID] > maxAsked
	d.asked[l.GUID] = maxAsked + 1
	d.mu.Unlock()
	if !told {
		d.o.Logger.Warn("GitHub was asked three times for a push that it cannot deliver, and is not asked again: see what it was answered, and redeliver it on the webhook's page",
			"delivery", l.GUID, "answer", l.Answer, "hook", l.Hook)
	}
}

// comes waits until the log knows a delivery.
func (d *Deliveries) comes(ctx context.Context, guid string) (bool, error) {
	for until := d.o.Now().Add(comesWithin); ; {
		known, err := d.received(ctx, []string{guid})
		if err != nil || known[guid] {
			return known[guid], err
		}
		if d.o.Now().After(until) || !d.o.Sleep(ctx, comesLook) {
			return false, nil
		}
	}
}

// known are the webhooks through which the newest pushes came to the deployments.
func (d *Deliveries) known(ctx context.Context) ([]hookID, error) {
	var forwards []eventlog.Filter
	for _, b := range d.o.Deployments {
		forwards = append(forwards, eventlog.Filter{Instance: d.o.Instance, Deployment: b.Deployment, Types: []eventlog.Type{eventlog.TypeForwarded}, Newest: true, Limit: maxForwards})
	}
	if len(forwards) == 0 {
		return nil, nil
	}
	found, err := d.o.Log.FindEach(ctx, forwards)
	if err != nil {
		return nil, fmt.Errorf("look for the webhooks of the deployments: %w", err)
	}
	repositories, ids := map[string][]string{}, []string{} // by delivery
	for i, events := range found {
		for _, e := range events {
			repositories[e.DeliveryID] = append(repositories[e.DeliveryID], d.o.Deployments[i].Repository)
			ids = append(ids, e.DeliveryID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	if found, err = d.o.Log.FindEach(ctx, []eventlog.Filter{{Instance: d.o.Instance, DeliveryIDs: ids, Types: []eventlog.Type{eventlog.TypeReceived}}}); err != nil {
		return nil, fmt.Errorf("look for the webhooks of the deployments: %w", err)
	}
	hooks := map[hookID]bool{}
	for _, e := range found[0] {
		data, err := e.Decode()
		if err != nil {
			return nil, err
		}
		r, ok := data.(eventlog.Received)
		if !ok {
			continue
		}
		// The header is not signed: who made it up leads to a hook that is not there.
		id, err := strconv.ParseInt(r.HookID, 10, 64)
		if err != nil || id <= 0 {
			continue
		}
		for _, repository := range repositories[e.DeliveryID] {
			hooks[hookID{repository, id}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(hooks), func(a, b hookID) int {
		return cmp.Or(cmp.Compare(a.repository, b.repository), cmp.Compare(a.id, b.id))
	}), nil
}
