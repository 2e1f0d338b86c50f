package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// waitsEvery is how often --wait looks what it waits for.
const waitsEvery = 2 * time.Second

// notRouted says why what is in the main queue is not in the log.
func notRouted(ctx context.Context, cfg *config.Config) string {
	if why := daemon.Obstacle(ctx, cfg, ""); why != "" {
		return why
	}
	return "the worker takes it next"
}

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
		return "it is not routed yet: " + notRouted(ctx, cfg)
	}
	for _, slug := range state.Deployments() {
		if state.Parts[slug].Status != router.StatusWaiting {
			continue
		}
		list, err := projections.New(store.Pool, store.Log, discard()).Deployments(ctx, cfg.Instance)
		if err != nil {
			return "the database does not answer: " + err.Error()
		}
		for _, d := range list {
			if d.Slug == slug && d.Running != nil && d.Running.DeliveryID != id {
				return fmt.Sprintf("%s is busy with %s of delivery %s", slug, shortCommit(d.Running.Commit), d.Running.DeliveryID)
			}
		}
		if why := daemon.Obstacle(ctx, cfg, slug); why != "" {
			return slug + ": " + why
		}
	}
	return ""
}
