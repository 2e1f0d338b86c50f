package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

type replayOptions struct {
	failed       bool
	since, until string
	deployment   string
	reason       string
	json         bool
}

func (c *cli) replayCommand() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay (DELIVERY... | --failed | --since TIME) --reason TEXT [--json]",
		Short: "Run past deliveries again, as new attempts",
		Long: `Decides each delivery anew by today's configuration, appends a "replayed" event
with your name and reason, and so orders new attempts, which the daemon runs.
Nothing of the past is overwritten. A commit that is behind what is live is
voided as stale all the same: to go back, use "deploy --ref".

--failed takes the deliveries whose newest attempt failed; with --since or
--until those received in the window. --deployment replays only that part.`,
		Example: `  durhack-deployer replay 72d3162e-cc78-11e3-81ab-4c9367dc0958 --reason "the disk was full"
  durhack-deployer replay --failed --since 2h --reason "the registry was down"`,
		ValidArgsFunction: completeNothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := o.check(args, time.Now())
			if err != nil {
				return err
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if o.deployment != "" {
				if _, err := deployment(cfg, o.deployment); err != nil {
					return err
				}
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				ids := unique(args)
				if len(ids) == 0 {
					if ids, err = o.find(cmd.Context(), cfg, store, filter); err != nil {
						return err
					}
					if len(ids) == 0 {
						fmt.Fprintln(c.out, "nothing to replay")
						return nil
					}
				}
				var errs []error
				for _, id := range ids {
					errs = append(errs, c.replay(cmd.Context(), cfg, store, id, o))
				}
				return errors.Join(errs...)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.failed, "failed", false, "the deliveries whose newest attempt failed")
	f.StringVar(&o.since, "since", "", "the deliveries received at or after this "+timeUsage)
	f.StringVar(&o.until, "until", "", "the deliveries received before this "+timeUsage)
	f.StringVar(&o.deployment, "deployment", "", "replay only for this deployment `SLUG`")
	f.StringVar(&o.reason, "reason", "", "why, for the log: `TEXT` (required)")
	jsonFlag(cmd, &o.json)
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	return cmd
}

// check refuses wrong calls; the filter chooses the deliveries of the window.
func (o replayOptions) check(args []string, now time.Time) (filter eventlog.Filter, err error) {
	window := o.failed || o.since != "" || o.until != ""
	switch {
	case len(args) == 0 && !window:
		return filter, usagef("name deliveries, or choose them with --failed, --since or --until")
	case len(args) > 0 && window:
		return filter, usagef("name deliveries or choose them with --failed, --since or --until, not both")
	case strings.TrimSpace(o.reason) == "":
		return filter, usagef("say why with --reason TEXT: it goes into the log with your name")
	}
	filter.Types = []eventlog.Type{eventlog.TypeReceived}
	return filter, parseTimes(now, timeFlag{"since", o.since, &filter.Since}, timeFlag{"until", o.until, &filter.Until})
}

// unique leaves out what was named before: a slip must not deploy twice.
func unique(ids []string) []string {
	var once []string
	for _, id := range ids {
		if !slices.Contains(once, id) {
			once = append(once, id)
		}
	}
	return once
}

// find lists the deliveries that --failed and the time window choose, in order of arrival.
func (o replayOptions) find(ctx context.Context, cfg *config.Config, store *daemon.Store, filter eventlog.Filter) ([]string, error) {
	filter.Instance = cfg.Instance
	var ids []string
	for e, err := range store.Log.Find(ctx, filter) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, e.DeliveryID)
	}
	if !o.failed && o.deployment == "" {
		return ids, nil
	}
	return o.only(ctx, cfg, store, ids)
}

// only keeps the deliveries that have a part as the flags want it.
func (o replayOptions) only(ctx context.Context, cfg *config.Config, store *daemon.Store, ids []string) ([]string, error) {
	var kept []string
	for _, id := range ids {
		events, err := deliveryEvents(ctx, cfg, store, id)
		if err != nil {
			return nil, err
		}
		state, err := router.Fold(events)
		if err != nil {
			return nil, err
		}
		for slug, part := range state.Parts {
			if (o.deployment == "" || o.deployment == slug) && (!o.failed || part.Status == router.StatusFailed) {
				kept = append(kept, id)
				break
			}
		}
	}
	return kept, nil
}

// replayRow is a line of `replay --json`.
type replayRow struct {
	DeliveryID  string   `json:"delivery_id"`
	Attempt     int      `json:"attempt,omitempty"`
	Deployments []string `json:"deployments"`
	Reason      string   `json:"not_replayed,omitempty"`
}

func (c *cli) replay(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, o replayOptions) error {
	events, err := deliveryEvents(ctx, cfg, store, id)
	if err != nil {
		return err
	}
	body, err := storedDelivery(ctx, store, events)
	if err != nil {
		return err
	}
	only, err := o.parts(events)
	if err != nil {
		return err
	}
	assignments, void, err := router.PlanReplay(events, body, router.Rules(cfg), only)
	if err != nil {
		return fmt.Errorf("replay %s: %w", id, err)
	}
	if void != nil {
		return c.notReplayed(id, fmt.Sprintf("%s: %s", void.Reason, void.Detail), o.json)
	}
	attempt := 0
	for _, a := range assignments {
		attempt = max(attempt, a.Attempt)
	}
	_, err = store.Log.Append(ctx, eventlog.Group{Transitions: []eventlog.Transition{{
		Instance: cfg.Instance, DeliveryID: id, Attempt: attempt, Actor: actor(),
		Data: eventlog.Replayed{V: eventlog.CurrentVersion(eventlog.TypeReplayed), Reason: strings.TrimSpace(o.reason), Deployments: assignments},
	}}})
	if err != nil {
		return fmt.Errorf("append the replay of %s: %w", id, err)
	}
	if o.json {
		var names []string
		for _, a := range assignments {
			names = append(names, a.Deployment)
		}
		return writeJSON(c.out, replayRow{DeliveryID: id, Attempt: attempt, Deployments: names})
	}
	_, err = fmt.Fprintf(c.out, "replayed: %s as attempt %d of %s\n", printable(id), attempt, slugs(assignments))
	return err
}

// parts are the deployments to replay for; nil means all that match today.
func (o replayOptions) parts(events []eventlog.Event) ([]string, error) {
	if o.deployment != "" {
		return []string{o.deployment}, nil
	}
	if !o.failed {
		return nil, nil
	}
	state, err := router.Fold(events)
	if err != nil {
		return nil, err
	}
	var failed []string
	for _, slug := range state.Deployments() {
		if state.Parts[slug].Status == router.StatusFailed {
			failed = append(failed, slug)
		}
	}
	return failed, nil
}

func (c *cli) notReplayed(id, why string, asJSON bool) error {
	if asJSON {
		if err := writeJSON(c.out, replayRow{DeliveryID: id, Deployments: []string{}, Reason: why}); err != nil {
			return err
		}
	}
	return &hintedError{fmt.Errorf("%s is not replayed, because it would be voided again: %s", id, why), "mend the configuration first; `" + c.command("why", id) + "` tells its past"}
}

// missingBody says why a delivery cannot be decided anew, and what to do instead.
func missingBody(received eventlog.Event, events []eventlog.Event) error {
	_, redacted, err := bodies(events)
	if err != nil {
		return err
	}
	if redacted == nil {
		return &hintedError{
			fmt.Errorf("%s cannot be replayed: its body is missing, and no event says that it was redacted", received.DeliveryID),
			"`durhack-deployer verify` tells more; `durhack-deployer deploy SLUG --ref COMMIT` runs its commit",
		}
	}
	return &hintedError{
		fmt.Errorf("%s cannot be replayed: %s (%s)", received.DeliveryID, summary(*redacted), clock(redacted.RecordedAt)),
		"`durhack-deployer deploy SLUG --ref COMMIT` runs its commit, which `durhack-deployer why " + received.DeliveryID + "` names",
	}
}

// storedDelivery puts a delivery together again from its received event and
// the stored body.
func storedDelivery(ctx context.Context, store *daemon.Store, events []eventlog.Event) (delivery.Delivery, error) {
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return delivery.Delivery{}, err
		}
		r, ok := data.(eventlog.Received)
		if !ok {
			continue
		}
		payload, err := store.Log.Payload(ctx, r.PayloadDigest)
		if errors.Is(err, eventlog.ErrNoPayload) {
			return delivery.Delivery{}, missingBody(e, events)
		}
		if err != nil {
			return delivery.Delivery{}, fmt.Errorf("read the stored body of %s: %w", e.DeliveryID, err)
		}
		d := delivery.Delivery{
			ID: e.DeliveryID, Event: r.Event, HookID: r.HookID, ContentType: r.ContentType, ReceivedAt: r.ReceivedAt,
			Source: string(r.Source), Salt: payload.Salt, Body: payload.Body,
		}
		if r.Source == eventlog.SourceCLI {
			d.Actor = e.Actor
			var own manualDeploy
			if err := json.Unmarshal(payload.Body, &own); err != nil {
				return delivery.Delivery{}, fmt.Errorf("read the stored body of %s: %w", e.DeliveryID, err)
			}
			d.Deployment = own.Deployment
		}
		return d, nil
	}
	return delivery.Delivery{}, fmt.Errorf("delivery %s has no received event; `durhack-deployer verify` tells more", events[0].DeliveryID)
}
