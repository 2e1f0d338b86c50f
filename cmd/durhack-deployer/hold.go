package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// ask appends what a person asks of a deployment, or of all where slug is empty, under an
// ID made for the purpose.
func (c *cli) order(ctx context.Context, cfg *config.Config, store *daemon.Store, id, slug string, data eventlog.Data) error {
	_, err := store.Log.Append(ctx, eventlog.Group{Transitions: []eventlog.Transition{{
		Instance: cfg.Instance, DeliveryID: id, Deployment: slug, Attempt: 1, Actor: actor(), Data: data,
	}}})
	if err != nil {
		return fmt.Errorf("append %s: %w", data.EventType(), err)
	}
	return c.signAppended(ctx, cfg, store)
}

// stateOf is one configured deployment as the log has it.
func stateOf(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string) (projections.Deployment, error) {
	if _, err := deployment(cfg, slug); err != nil {
		return projections.Deployment{}, err
	}
	known, err := deployments(ctx, cfg, store, moment{})
	return known[slug], err
}

// holdNotes say that a deployment is frozen or pinned, by whom and why.
func holdNotes(d projections.Deployment, at time.Time) []string {
	var notes []string
	if h := d.Frozen; h.Active(at) {
		until := ""
		if !h.Until.IsZero() {
			until = " until " + clock(h.Until)
		}
		notes = append(notes, fmt.Sprintf("frozen%s since %s by %s: %s", until, clock(h.Since), h.Actor, h.Reason))
	}
	if h := d.Pinned; h.Active(at) {
		notes = append(notes, fmt.Sprintf("pinned to %s since %s by %s: %s", shortCommit(h.Commit), clock(h.Since), h.Actor, h.Reason))
	}
	return notes
}
