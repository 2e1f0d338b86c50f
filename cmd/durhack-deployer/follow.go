package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
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
	took, err := daemon.Answers(cfg, store).Durations(ctx, "")
	if err != nil {
		took = answer.Durations{} // it is told for comfort alone
	}
	saw, stop := c.tellRuns(ctx, cfg, took)
	defer stop()
	var after int64
	c.databaseOutage().Until(ctx, func() error {
		if after, err = before(ctx, cfg, store, id); err != nil && eventlog.Transient(err) {
			return err
		}
		return nil
	})
	if err == nil {
		err = store.Log.Follow(ctx, after, func(_ context.Context, events []eventlog.Event) error {
			for _, e := range events {
				if e.DeliveryID != id || e.Instance != cfg.Instance {
					continue
				}
				saw(e)
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
		return &hintedError{err, "the deploy continues: " + why + " shows how it went"}
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

// waitsEvery is how often --wait looks what it waits for.
const waitsEvery = 2 * time.Second

// warnOfObstacles says what keeps an order from beginning.
func (c *cli) warnOfObstacles(ctx context.Context, cfg *config.Config, slugs ...string) {
	told := map[string]bool{}
	for _, slug := range slugs {
		if why := daemon.Obstacle(ctx, cfg, slug); why != "" && !told[why] {
			told[why] = true
			fmt.Fprintf(c.err, "warning: it waits: %s\n", printable(why))
		}
	}
}

// tellWaits says on standard error what a delivery waits for, each time that this
// changes, until stop is called. state is what is known of the delivery, nil before
// it is routed.
func (c *cli) tellWaits(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, state *atomic.Pointer[router.DeliveryState]) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		for last := ""; retry.Sleep(ctx, waitsEvery); {
			if why := waitsFor(ctx, cfg, store, id, state.Load()); why != "" && why != last && ctx.Err() == nil {
				last = why
				fmt.Fprintf(c.err, "waiting: %s\n", printable(why))
			}
		}
	})
	return func() {
		cancel()
		telling.Wait()
	}
}

// waitsFor says what the first part of a delivery that has not begun waits for.
func waitsFor(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, state *router.DeliveryState) string {
	if state == nil {
		return "it is not routed yet: " + daemon.Answers(cfg, store).NotRouted(ctx)
	}
	for _, slug := range state.Deployments() {
		part := state.Parts[slug]
		if part.Status != router.StatusWaiting {
			continue
		}
		list, err := projections.New(store.Pool, store.Log, discard()).Deployments(ctx, cfg.Instance)
		if err != nil {
			return "the database does not answer: " + err.Error()
		}
		for _, d := range list {
			if d.Slug == slug && d.Frozen.Active(time.Now()) && !part.Assignment.PassesHolds() {
				return slug + " is " + answer.HoldNotes(d, time.Now())[0]
			}
			if d.Slug == slug && d.Running != nil && d.Running.DeliveryID != id {
				return fmt.Sprintf("%s is busy with %s of delivery %s", slug, words.ShortCommit(d.Running.Commit), d.Running.DeliveryID)
			}
		}
		if why := daemon.Obstacle(ctx, cfg, slug); why != "" {
			return slug + ": " + why
		}
	}
	return ""
}
