package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

var errEnded = errors.New("the delivery has ended")

// follow prints the events of a delivery as they are appended, until nothing
// of it is pending, and says how it ended.
func (c *cli) follow(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, asJSON bool) (router.DeliveryState, error) {
	emit := c.eventPrinter(cfg, asJSON, true)
	var all []eventlog.Event
	var state router.DeliveryState
	after, err := before(ctx, cfg, store, id)
	if err == nil {
		err = store.Log.Follow(ctx, after, func(_ context.Context, events []eventlog.Event) error {
			for _, e := range events {
				if e.DeliveryID != id || e.Instance != cfg.Instance {
					continue
				}
				all = append(all, e)
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

// wentLive says whether every part of a delivery was deployed.
func wentLive(s router.DeliveryState) bool {
	for _, p := range s.Parts {
		if p.Status != router.StatusDeployed {
			return false
		}
	}
	return len(s.Parts) > 0
}
