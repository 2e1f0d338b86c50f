// Package notify tells people what happens: it says which entries of the configuration
// are owed what, words it, and hands it to their services. What is in the log goes
// through the outbox; what stands, waits or was tampered with is looked for now and
// then: see Watch.
package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/sender"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Channel is the outbox's.
const Channel = "notify"

// together is how long the same failure is told of again in one message only.
const together = time.Hour

// Log is what is asked of the event log.
type Log interface {
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
	Payload(ctx context.Context, digest string) (eventlog.Payload, error)
}

// Options configure a Notifier.
type Options struct {
	Config *config.Config
	Logger *slog.Logger
	// Log and Owed, which reads what is in the outbox under keys that begin so, are
	// what Owe asks; and Subject, of a commit that no push tells of: "" where nothing does.
	Log     Log
	Owed    func(ctx context.Context, prefix string) ([]outbox.Item, error)
	Subject func(ctx context.Context, deployment, commit string) string
}

// Notifier words and sends. Create it with New.
type Notifier struct {
	o Options

	mu      sync.Mutex
	senders map[string]*sender.Sender
}

// New returns a Notifier.
func New(o Options) *Notifier {
	return &Notifier{o: o, senders: map[string]*sender.Sender{}}
}

// body is an item's.
type body struct {
	Entry   string         `json:"entry"`
	Message sender.Message `json:"message"`
	// Window is set where the item sums up failures.
	Window *window `json:"window,omitempty"`
}

// window is the hour after a failure that was told of at once. Those of the same
// deployment in the same step, without a success in between, are counted in it, and told
// of at its end.
type window struct {
	Deployment string    `json:"deployment"`
	Step       string    `json:"step"`
	Since      time.Time `json:"since"`
	More       int       `json:"more"`
}

func (w *window) end() time.Time { return w.Since.Add(together) }

// windowKey begins the keys of items that sum up.
const windowKey = "again "

func (w *window) key(entry string) string {
	return fmt.Sprintf("%s%s %s %q %d", windowKey, entry, w.Deployment, w.Step, w.Since.UnixMicro())
}

// told is one kind of message that an event gives. Of a failure, step is where, and again
// says that the run before has failed, too.
type told struct {
	what    string
	message sender.Message
	step    string
	again   bool
}

// Owe says what events give: see outbox.Options.
func (n *Notifier) Owe(ctx context.Context, events []eventlog.Event) ([]outbox.Item, error) {
	var items []outbox.Item // a later one of the same key takes the place of one before
	put := func(e *eventlog.Event, key string, notBefore time.Time, b body) error {
		raw, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("encode a notification: %w", err)
		}
		items = append(items, outbox.Item{Key: key, Scope: b.Entry, Position: e.Position, At: e.RecordedAt, NotBefore: notBefore, Body: raw})
		return nil
	}
	var open windows
	for i := range events {
		e := &events[i]
		list, err := n.tell(ctx, e)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 && e.Type == eventlog.TypeFailed && open == nil {
			if open, err = n.windows(ctx); err != nil {
				return nil, err
			}
		}
		for _, entry := range n.o.Config.Notify {
			i := slices.IndexFunc(list, func(t told) bool { return entry.Wants(t.what, e.DeploymentSlug()) })
			if i < 0 {
				continue
			}
			t, first := list[i], true
			if t.what == config.OnFailed {
				var w *window
				w, first = open.add(entry.Name, t, e)
				if err := put(e, w.key(entry.Name), w.end(), body{entry.Name, w.again(t.message), w}); err != nil {
					return nil, err
				}
			}
			if !first {
				continue
			}
			key := fmt.Sprintf("%s %s %s %s %d", t.what, entry.Name, e.DeliveryID, e.DeploymentSlug(), e.Attempt)
			if err := put(e, key, time.Time{}, body{Entry: entry.Name, Message: t.message}); err != nil {
				return nil, err
			}
		}
	}
	return items, nil
}

// gives are the kinds of message that a type of event may give.
var gives = map[eventlog.Type][]string{
	eventlog.TypeFailed:      {config.OnFailed},
	eventlog.TypeDeployed:    {config.OnRecovered, config.OnDeployed},
	eventlog.TypeInterrupted: {config.OnInterrupted},
}

// tell words what an event gives; nil where nobody wants to know of it. The first of
// several says all of the others.
func (n *Notifier) tell(ctx context.Context, e *eventlog.Event) ([]told, error) {
	wanted := slices.ContainsFunc(gives[e.Type], func(what string) bool {
		return slices.ContainsFunc(n.o.Config.Notify, func(entry config.Notify) bool { return entry.Wants(what, e.DeploymentSlug()) })
	})
	if !wanted {
		return nil, nil
	}
	data, err := e.Decode()
	if err != nil {
		return nil, err
	}
	if d, ok := data.(eventlog.Interrupted); ok {
		return []told{{what: config.OnInterrupted, message: n.interrupted(ctx, e, d)}}, nil
	}
	before, err := n.before(ctx, e)
	if err != nil {
		return nil, err
	}
	switch d := data.(type) {
	case eventlog.Failed:
		canceled, err := n.canceled(ctx, e)
		if err != nil {
			return nil, err
		}
		step := d.Step
		if canceled != "" { // is another failure than that of the step
			step = "canceled in " + step
		}
		return []told{{config.OnFailed, n.failed(ctx, e, d, canceled), step, before != nil}}, nil
	case eventlog.Deployed:
		list := []told{{what: config.OnDeployed, message: n.deployed(ctx, e, d, nil)}}
		if before != nil {
			list = append([]told{{what: config.OnRecovered, message: n.deployed(ctx, e, d, before)}}, list...)
		}
		return list, nil
	}
	return nil, nil
}

// canceled says by whom a failed run was canceled, and why; "" where it ended by itself.
func (n *Notifier) canceled(ctx context.Context, e *eventlog.Event) (text string, err error) {
	filter := eventlog.Filter{Instance: e.Instance, DeliveryID: e.DeliveryID, Deployment: e.DeploymentSlug(), Types: []eventlog.Type{eventlog.TypeCanceled}}
	for c, err := range n.o.Log.Find(ctx, filter) {
		if err != nil {
			return "", fmt.Errorf("look whether the run was canceled: %w", err)
		}
		data, err := c.Decode()
		if err != nil {
			return "", err
		}
		if d, ok := data.(eventlog.Canceled); ok && c.Attempt == e.Attempt {
			text = words.Canceled(c.Actor, d.Reason)
		}
	}
	return text, nil
}

// failure is how a run failed.
type failure struct {
	step     string
	canceled bool
}

// before is how the run failed that ended last before e; nil where it succeeded, or
// there is none.
func (n *Notifier) before(ctx context.Context, e *eventlog.Event) (*failure, error) {
	const sameInstant = 10 // events of a deployment that ended it at the very time of e
	filter := eventlog.Filter{
		Instance: e.Instance, Deployment: e.DeploymentSlug(), Types: []eventlog.Type{eventlog.TypeDeployed, eventlog.TypeFailed},
		Until: e.RecordedAt.Add(time.Microsecond), Newest: true, Limit: sameInstant,
	}
	var last eventlog.Event
	state, err := projections.FoldAt(func(yield func(eventlog.Event, error) bool) {
		for end, err := range n.o.Log.Find(ctx, filter) {
			if err == nil && end.Position >= e.Position || !yield(end, err) {
				return
			}
			last = end
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look how the run before failed: %w", err)
	}
	one := state.Deployments(e.Instance)
	if len(one) == 0 || one[0].Failure == nil {
		return nil, nil
	}
	canceled, err := n.canceled(ctx, &last)
	return &failure{one[0].Failure.Step, canceled != ""}, err
}

// windows are the newest of each entry, deployment and step.
type windows map[[3]string]*window

// windows reads those that are in the outbox.
func (n *Notifier) windows(ctx context.Context) (windows, error) {
	items, err := n.o.Owed(ctx, windowKey)
	if err != nil {
		return nil, err
	}
	open := windows{}
	for _, item := range items {
		var b body
		if err := json.Unmarshal(item.Body, &b); err != nil || b.Window == nil {
			return nil, fmt.Errorf("read the notification %q: %w", item.Key, err)
		}
		key := [3]string{b.Entry, b.Window.Deployment, b.Window.Step}
		if w := open[key]; w == nil || w.Since.Before(b.Window.Since) {
			open[key] = b.Window
		}
	}
	return open, nil
}

// add counts a failure, and says whether it is the first of its window. One after a
// success is: people think that it works.
func (open windows) add(entry string, t told, e *eventlog.Event) (w *window, first bool) {
	key := [3]string{entry, e.DeploymentSlug(), t.step}
	if w := open[key]; w != nil && t.again && e.RecordedAt.Before(w.end()) {
		w.More++
		return w, false
	}
	open[key] = &window{Deployment: e.DeploymentSlug(), Step: t.step, Since: e.RecordedAt}
	return open[key], true
}

// Send sends an item: see outbox.Options.
func (n *Notifier) Send(ctx context.Context, item outbox.Item) error {
	var b body
	if err := json.Unmarshal(item.Body, &b); err != nil {
		return outbox.Refused(fmt.Errorf("read a notification: %w", err))
	}
	if b.Window != nil && b.Window.More == 0 {
		return nil // the failure has not come again
	}
	err := n.send(ctx, b.Entry, b.Message)
	if sender.Refused(err) {
		return outbox.Refused(err)
	}
	return err
}

// send sends to an entry. What is owed to one that is not configured any more is forgotten.
func (n *Notifier) send(ctx context.Context, entry string, m sender.Message) error {
	i := slices.IndexFunc(n.o.Config.Notify, func(one config.Notify) bool { return one.Name == entry })
	if i < 0 {
		n.o.Logger.Debug("nobody is to be told any more", "entry", entry, "title", m.Title)
		return nil
	}
	s, err := n.sender(&n.o.Config.Notify[i])
	if err != nil {
		return err
	}
	return s.Send(ctx, m)
}

// sender is that of an entry, once its URL is known.
func (n *Notifier) sender(entry *config.Notify) (*sender.Sender, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.senders[entry.Name]
	if s == nil {
		url, err := entry.Service()
		if err != nil {
			return nil, err
		}
		if url == "" {
			return nil, errNowhere
		}
		s = sender.New(url.Reveal())
		n.senders[entry.Name] = s
	}
	return s, nil
}

var errNowhere = errors.New("the entry names no service: add url_file or url, as `config check` says, and restart")
