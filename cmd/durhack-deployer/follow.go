package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

var errEnded = errors.New("the delivery has ended")

// follow prints the events of a delivery as they are appended, until nothing
// of it is pending. seen gets each event.
func (c *cli) follow(ctx context.Context, log *eventlog.Log, deliveryID string, seen func(eventlog.Event)) error {
	emit := c.eventPrinter(false)
	var all []eventlog.Event
	err := log.Follow(ctx, 0, func(_ context.Context, events []eventlog.Event) error {
		for _, e := range events {
			if e.DeliveryID != deliveryID {
				continue
			}
			all = append(all, e)
			seen(e)
			if err := emit(e); err != nil {
				return err
			}
		}
		if len(all) == 0 {
			return nil
		}
		state, err := router.Fold(all)
		if err != nil {
			return err
		}
		if !state.Pending() {
			return errEnded
		}
		return nil
	})
	if errors.Is(err, errEnded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("follow delivery %s: %w", deliveryID, err)
	}
	return nil
}
