package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

var errEnded = errors.New("the delivery has ended")

// follow prints the events of a delivery after a position, and as they are
// appended, until nothing of it is pending, and says how it ended.
func (c *cli) follow(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, from int64, asJSON bool) (router.DeliveryState, error) {
	emit := c.eventPrinter(newStory(painterFor(c.out), cfg.Slugs(), true), asJSON)
	var all []eventlog.Event
	var state router.DeliveryState
	var known atomic.Pointer[router.DeliveryState]
	defer c.tellWaits(ctx, cfg, store, id, &known)()
	after, err := before(ctx, cfg, store, id)
	if err == nil {
		err = store.Log.Follow(ctx, after, func(_ context.Context, events []eventlog.Event) error {
			for _, e := range events {
				if e.DeliveryID != id || e.Instance != cfg.Instance {
					continue
				}
				if all = append(all, e); e.Position <= from {
					continue
				}
				// How it ends matters, also when nobody reads the story any more.
				if err := emit(e); err != nil && !errors.Is(err, errReaderLeft) {
					return err
				}
			}
			if len(all) == 0 {
				return nil
			}
			var err error
			if state, err = router.Fold(all); err != nil {
				return err
			}
			now := state
			known.Store(&now)
			if !state.Pending() {
				return errEnded
			}
			return nil
		})
	}
	if err != nil && !errors.Is(err, errEnded) {
		return state, fmt.Errorf("follow delivery %s: %w", id, err)
	}
	return state, nil
}

// before is a position that comes before all events of a delivery: following
// begins there, rather than at the start of a log of years.
func before(ctx context.Context, cfg *config.Config, store *daemon.Store, id string) (int64, error) {
	// In this order: what is not found comes after the head.
	head, err := store.Log.Head(ctx)
	if err != nil {
		return 0, err
	}
	for e, err := range store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, DeliveryID: id, Limit: 1}) {
		if err != nil {
			return 0, err
		}
		return e.Position - 1, nil
	}
	return head, nil
}

// awaitLive follows a delivery until it has ended: an error unless it went live,
// everywhere or at these deployments.
func (c *cli) awaitLive(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, from int64, asJSON bool, only ...string) error {
	why := "`" + c.command("why", id) + "`"
	end, err := c.follow(ctx, cfg, store, id, from, asJSON)
	switch {
	case errors.Is(err, context.Canceled):
		return &hintedError{err, "the deploy goes on without you: " + why + " tells how it went"}
	case err == nil && !wentLive(end, only...):
		return &hintedError{fmt.Errorf("delivery %s did not go live", id), why + " says why"}
	}
	return err
}

// wentLive says whether a delivery was deployed everywhere, or at these deployments.
func wentLive(s router.DeliveryState, only ...string) bool {
	if len(only) == 0 {
		only = s.Deployments()
	}
	for _, slug := range only {
		if s.Parts[slug].Status != router.StatusDeployed {
			return false
		}
	}
	return len(only) > 0
}
