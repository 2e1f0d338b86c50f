package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/notify"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// newNotifier returns what tells people of what the log says.
func newNotifier(o Options, store *Store) *outbox.Outbox {
	n := notify.New(notify.Options{
		Config: o.Config, Log: store.Log, Logger: o.Logger,
		Owed: func(ctx context.Context, prefix string) ([]outbox.Item, error) {
			return outbox.Items(ctx, store.Pool, notify.Channel, o.Config.Instance, prefix)
		},
		Subject: func(ctx context.Context, slug, commit string) string {
			d := o.Config.Deployments[slug]
			if d == nil || !names.Commit(commit) {
				return ""
			}
			ctx, cancel := context.WithTimeout(ctx, lookWithin)
			defer cancel()
			found, _ := Tree(o.Config, d).Authored(ctx, []string{commit}) // the deploy says what is wrong with a clone
			return found[commit].Subject
		},
	})
	return newOutbox(o, store, outbox.Options{Channel: notify.Channel, Owe: n.Owe, Send: n.Send})
}

// watch tells people of what the log does not say, until ctx ends.
func watch(ctx context.Context, o Options, state *condition) error {
	n := notify.New(notify.Options{Config: o.Config, Logger: o.Logger})
	return n.Watch(ctx, func(ctx context.Context) ([]notify.Condition, []string) { return state.look(ctx, o.Config) })
}

// look is what /readyz knows of what stands, waits or was tampered with.
func (c *condition) look(ctx context.Context, cfg *config.Config) (list []notify.Condition, untold []string) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	stopped := func(key string, reasons ...string) {
		if text := strings.Join(reasons, "; "); text != "" {
			list = append(list, notify.Condition{What: config.OnStopped, Key: key, Text: "- " + key + ":", Quoted: text})
		}
	}
	phase, why, store, p := c.now()
	if phase == phaseWaiting {
		stopped("database", why)
	}
	c.mu.Lock()
	failed := maps.Clone(c.failed)
	c.mu.Unlock()
	for _, part := range slices.Sorted(maps.Keys(failed)) {
		stopped(part, failed[part].Error())
	}
	if s := c.signing.now(); s != nil {
		switch trouble := s.Trouble(); {
		case s.Tampered():
			list = append(list, notify.Condition{What: config.OnTampered, Key: "log", Text: "The signer:", Quoted: trouble})
		default:
			stopped("signatures", trouble)
		}
	}
	if v, err := answer.LastVerify(cfg); err == nil && v != nil {
		if breaches := v.OfLog(); len(breaches) > 0 {
			list = append(list, notify.Condition{
				What: config.OnTampered, Key: "verify",
				Text: fmt.Sprintf("verify, at %s:", words.UTC(v.At)), Quoted: strings.Join(breaches, "; "),
			})
		}
	}
	_, locks := c.checkLocks(ctx, cfg)
	stopped("locks", locks...)
	if store == nil {
		return list, []string{config.OnWaiting}
	}
	_, database := c.checkDatabase(ctx)
	stopped("database", database...)
	lag, err := p.Lag(ctx)
	if lag.Err != nil {
		stopped("read models", ProjectionTrouble(lag))
	}
	if err != nil || lag.Err != nil {
		return list, []string{config.OnWaiting}
	}
	if !slices.ContainsFunc(cfg.Notify, func(n config.Notify) bool { return slices.Contains(n.On, config.OnWaiting) }) {
		return list, nil
	}
	waiting, err := waits(ctx, cfg, p)
	if err != nil {
		return list, []string{config.OnWaiting}
	}
	return append(list, waiting...), nil
}

// waits are the runs that wait, but for those that a person has made wait.
func waits(ctx context.Context, cfg *config.Config, p *projections.Projector) ([]notify.Condition, error) {
	state, err := p.Resume(ctx, cfg.Instance)
	if err != nil {
		return nil, err
	}
	var list []notify.Condition
	for _, a := range state.Attempts(cfg.Instance) {
		if frozen, _ := state.Holds(cfg.Instance, a.Deployment); a.Outcome != projections.OutcomeWaiting || frozen.Active(time.Now()) {
			continue
		}
		list = append(list, notify.Condition{
			What: config.OnWaiting, Deployment: a.Deployment, Delivery: a.DeliveryID, Key: a.DeliveryID + " " + a.Deployment, Since: a.AssignedAt,
			Text:   fmt.Sprintf("- %s, since %s: commit %s, delivery %s, by", a.Deployment, words.UTC(a.AssignedAt), words.ShortCommit(a.Commit), a.DeliveryID),
			Quoted: a.Actor,
		})
	}
	return list, nil
}
