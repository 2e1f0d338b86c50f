package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/links"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/sender"
)

const (
	// lookEvery is how often conditions are looked for.
	lookEvery = 15 * time.Second
	// stands is how many looks a part has to fail in before it counts as standing, and
	// over how many it has to be well before that is over: one that fails is started
	// again at once.
	stands, over = 2, 4
	// maxListed bounds what one message lists.
	maxListed = 10
	// firstPause and lastPause bound the pauses between the tries.
	firstPause, lastPause = 5 * time.Second, 15 * time.Minute
)

// Condition is something that is so until it is over, and that the log does not say.
type Condition struct {
	// What is OnWaiting, OnStopped or OnTampered.
	What string
	// Deployment and Delivery are those of what waits.
	Deployment, Delivery string
	// Key tells it apart from others of its kind.
	Key string
	// Since is when what waits began to.
	Since time.Time
	// Text says it, and Quoted is the text from outside that belongs to it.
	Text, Quoted string
}

// Look says what is so now, and which kinds cannot be told now.
type Look func(ctx context.Context) (list []Condition, untold []string)

// standing is a condition and what an entry was told of it. It is kept in state_dir,
// because the database may be what does not work.
type standing struct {
	Entry string    `json:"entry"`
	What  string    `json:"what"`
	Key   string    `json:"key"`
	Since time.Time `json:"since"`
	// Told is when it was, State how it ended where it was not: refused or given_up.
	Told  time.Time `json:"told,omitzero"`
	State string    `json:"state,omitempty"`
	Tries int       `json:"tries,omitempty"`
	Next  time.Time `json:"next,omitzero"`
	Error string    `json:"error,omitempty"`
	// Failed is when it was tried last in vain.
	Failed time.Time `json:"failed_at,omitzero"`

	seen, missed int
	condition    Condition
}

func (s *standing) id() [3]string { return [3]string{s.Entry, s.What, s.Key} }

func standingPath(stateDir string) string { return filepath.Join(stateDir, "notified.json") }

// readStanding reads what was told; nothing where there is no file.
func readStanding(stateDir string) ([]*standing, error) {
	var list []*standing
	if _, err := durable.ReadJSON(standingPath(stateDir), &list); err != nil {
		return nil, fmt.Errorf("read what was told: %w", err)
	}
	return list, nil
}

// Troubles lists what of a condition could not be told, as the outbox does of the rest.
func Troubles(stateDir string) ([]outbox.Trouble, error) {
	list, err := readStanding(stateDir)
	if err != nil {
		return nil, err
	}
	var troubles []outbox.Trouble
	for _, s := range list {
		if s.Error == "" || !s.Told.IsZero() {
			continue
		}
		t := outbox.Trouble{Channel: Channel, Scope: s.Entry, State: s.State, Error: s.Error, Count: 1, Last: s.Failed}
		if t.State == "" {
			t.State = "owed"
		}
		same := func(o outbox.Trouble) bool { return o.Scope == t.Scope && o.State == t.State && o.Error == t.Error }
		if i := slices.IndexFunc(troubles, same); i >= 0 {
			troubles[i].Count++
		} else {
			troubles = append(troubles, t)
		}
	}
	return troubles, nil
}

// watch is the state of Watch.
type watch struct {
	*Notifier
	list []*standing
	disk *retry.Outage
}

func (n *Notifier) newWatch() *watch {
	list, err := readStanding(n.o.Config.StateDir)
	if err != nil {
		n.o.Logger.Warn("what was told is forgotten, and told again", "error", err)
	}
	return &watch{n, list, retry.New(n.o.Logger, slog.LevelWarn, "what was told is not kept: after a start it is told again")}
}

// Watch tells of conditions until ctx ends (nil): of each once, until it is over.
func (n *Notifier) Watch(ctx context.Context, look Look) error {
	w := n.newWatch()
	for {
		conditions, untold := look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.turn(ctx, time.Now(), conditions, untold)
		if !retry.Sleep(ctx, lookEvery) {
			return nil
		}
	}
}

// turn compares what is so with what was told, tells what is new, and keeps that.
func (w *watch) turn(ctx context.Context, now time.Time, conditions []Condition, untold []string) {
	before := w.encode()
	w.compare(now, conditions, untold)
	var sends sync.WaitGroup
	for _, due := range w.due(now) {
		sends.Go(func() { w.tell(ctx, now, due) })
	}
	sends.Wait()
	after := w.encode()
	if string(after) == string(before) {
		return
	}
	if err := durable.WriteFile(standingPath(w.o.Config.StateDir), after, 0o600); err != nil {
		w.disk.Failed(err)
	} else {
		w.disk.Over()
	}
}

func (w *watch) encode() []byte {
	raw, err := json.Marshal(w.list)
	if err != nil {
		return nil // strings, numbers and times
	}
	return raw
}

// compare adds what is new, and removes what is over.
func (w *watch) compare(now time.Time, conditions []Condition, untold []string) {
	known := map[[3]string]*standing{}
	for _, s := range w.list {
		known[s.id()] = s
		if !slices.Contains(untold, s.What) {
			s.missed++
		}
	}
	for _, c := range conditions {
		for i := range w.o.Config.Notify {
			entry := &w.o.Config.Notify[i]
			if !entry.Wants(c.What, c.Deployment) || c.What == config.OnWaiting && now.Sub(c.Since) < entry.Waiting {
				continue
			}
			s := &standing{Entry: entry.Name, What: c.What, Key: c.Key, Since: now}
			if known[s.id()] == nil {
				known[s.id()], w.list = s, append(w.list, s)
			}
			s = known[s.id()]
			s.condition, s.missed = c, 0
			s.seen++
		}
	}
	w.list = slices.DeleteFunc(w.list, func(s *standing) bool {
		return s.missed >= over || s.missed > 0 && s.Told.IsZero() && s.seen < stands
	})
}

// due are those that are to be told now, each group in one message.
func (w *watch) due(now time.Time) [][]*standing {
	groups := map[[2]string]int{}
	var due [][]*standing
	for _, s := range w.list {
		if s.seen == 0 || s.What == config.OnStopped && s.seen < stands || !s.Told.IsZero() || s.State != "" || now.Before(s.Next) {
			continue
		}
		key := [2]string{s.Entry, s.What}
		i, ok := groups[key]
		if !ok {
			i = len(due)
			groups[key], due = i, append(due, nil)
		}
		due[i] = append(due[i], s)
	}
	return due
}

// tell tells an entry of conditions of a kind, and notes how it went.
func (w *watch) tell(ctx context.Context, now time.Time, due []*standing) {
	err := w.send(ctx, due[0].Entry, w.words(due))
	if err != nil && ctx.Err() != nil {
		return
	}
	for _, s := range due {
		if err == nil {
			s.Told, s.Error = now, ""
			continue
		}
		pause := retry.Pause(s.Tries, firstPause, lastPause)
		s.Tries++
		s.Error, s.Failed, s.Next = err.Error(), now, now.Add(pause)
		switch {
		case sender.Refused(err):
			s.State = "refused"
		case s.Next.Sub(s.Since) > outbox.Lasts:
			s.State = "given_up"
		}
	}
	if err != nil {
		level := slog.LevelDebug
		if due[0].State != "" {
			level = slog.LevelWarn
		}
		w.o.Logger.Log(ctx, level, "nobody could be told", "entry", due[0].Entry, "what", due[0].What, "state", due[0].State, "error", err)
	}
}

// words are the message of conditions of a kind.
func (w *watch) words(due []*standing) sender.Message {
	deployer := w.o.Config.Instance
	var m sender.Message
	switch due[0].What {
	case config.OnTampered:
		m.Title = deployer + ": the log was tampered with"
		m.Say("The log of the deployer %s is not what it was.", deployer)
	case config.OnStopped:
		m.Title = deployer + ": a part of the deployer stands"
		m.Say("The deployer %s does not work as it should; it is tried again by itself.", deployer)
	case config.OnWaiting:
		m.Title = deployer + ": a push waits"
		m.Say("This waits for longer than it should to be deployed by %s:", deployer)
	}
	for i, s := range due {
		if i == maxListed {
			m.Say("... and %d more", len(due)-i)
			break
		}
		if s.condition.Quoted == "" {
			m.Say("%s", s.condition.Text)
		}
		m.Quote(s.condition.Text, s.condition.Quoted)
	}
	switch due[0].What {
	case config.OnTampered:
		m.Say("To see where: durhack-deployer verify")
	case config.OnStopped:
		m.Say("To see more: durhack-deployer doctor")
	case config.OnWaiting:
		m.Say("To see why: durhack-deployer why %s", due[0].condition.Delivery)
	}
	if link := links.Home(w.o.Config.Origin); link != "" {
		m.Say("More: %s", link)
	}
	return m
}
