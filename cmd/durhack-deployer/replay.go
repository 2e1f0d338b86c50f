package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

type replayOptions struct {
	failed       bool
	since, until string
	deployment   string
	reason       string
	dryRun, yes  bool
	wait         bool
	simulate     bool
	withConfig   []string
	json         bool
}

// maxUnasked is how many deliveries are replayed without a question.
const maxUnasked = 10

func (c *cli) replayCommand() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay (DELIVERY... | --failed | --since TIME) (--reason TEXT [--wait] | --dry-run | --simulate --with-config FILE) [--json]",
		Short: "Run past deliveries again, as new attempts, or try another configuration on them",
		Long: `Decides each delivery again by today's configuration, appends a "replayed" event
with your name and reason, and so orders new attempts, which the daemon runs.
Nothing of the past is overwritten. A commit that is behind what is live is
still voided as stale: to go back, use "deploy --ref".

--failed takes the deliveries whose newest attempt failed; with --since or
--until those received in the window. --deployment replays only that part. They
are replayed in the order in which they came.

--dry-run only lists what would run, or why it would not. More than ten
deliveries are replayed after a question on a terminal, and elsewhere only
with --yes.

--simulate has no effect whatever: it decides the deliveries that are named, or
that came between --since and --until, or all, by the configuration of
--with-config, and prints those decisions that would have been different from
what the log says was decided, with both reasons. Exit code 3 if there is any,
0 if there is none. Deliveries whose body is gone are listed as "cannot say".`,
		Example: `  durhack-deployer replay 72d3162e-cc78-11e3-81ab-4c9367dc0958 --reason "the disk was full"
  durhack-deployer replay --failed --since 2h --dry-run
  durhack-deployer replay --failed --since 2h --reason "the registry was down"
  durhack-deployer replay --simulate --with-config new.toml --since 30d`,
		ValidArgsFunction: completeNothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := o.check(args, time.Now())
			if err != nil {
				return err
			}
			if o.simulate {
				return c.simulate(cmd.Context(), args, o, filter)
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if o.deployment != "" {
				if _, err := answer.Deployment(cfg, o.deployment); err != nil {
					return err
				}
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				ids, err := deliveryIDs(cmd.Context(), cfg, store, args)
				if err != nil {
					return err
				}
				if len(ids) == 0 {
					if ids, err = o.find(cmd.Context(), cfg, store, filter); err != nil {
						return err
					}
					if len(ids) == 0 {
						if !o.json {
							fmt.Fprintln(c.out, "nothing to replay")
						}
						return nil
					}
				}
				return c.replayAll(cmd.Context(), cfg, store, ids, o)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.failed, "failed", false, "the deliveries whose newest attempt failed")
	f.StringVar(&o.since, "since", "", "the deliveries received at or after this "+timeUsage)
	f.StringVar(&o.until, "until", "", "the deliveries received before this "+timeUsage)
	f.StringVar(&o.deployment, "deployment", "", "replay only for this deployment `SLUG`")
	f.StringVar(&o.reason, "reason", "", "why, for the log: `TEXT` (required)")
	f.BoolVar(&o.dryRun, "dry-run", false, "only list what would run")
	f.BoolVar(&o.wait, "wait", false, "print the story until it ends (with --json its events); exit 1 unless all went live")
	f.BoolVar(&o.yes, "yes", false, "do not ask, however many there are")
	f.BoolVar(&o.simulate, "simulate", false, "only say what the configuration of --with-config would decide differently")
	f.StringArrayVar(&o.withConfig, "with-config", nil, "the configuration `FILE` or directory to simulate; repeat to merge several")
	jsonFlag(cmd, &o.json)
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	return cmd
}

// check refuses wrong calls, and trims the reason; the filter chooses the deliveries of the window.
func (o *replayOptions) check(args []string, now time.Time) (filter eventlog.Filter, err error) {
	window := o.failed || o.since != "" || o.until != ""
	switch {
	case o.simulate && len(o.withConfig) == 0:
		return filter, usagef("--simulate needs the configuration to try: --with-config FILE")
	case !o.simulate && len(o.withConfig) > 0:
		return filter, usagef("--with-config is for --simulate; what is replayed for real is decided by the configuration in use")
	case o.simulate && (o.failed || o.deployment != "" || o.reason != "" || o.dryRun || o.yes || o.wait):
		return filter, usagef("--simulate takes deliveries, --since and --until, and has no effect: leave out --failed, --deployment, --reason, --dry-run, --wait and --yes")
	case o.dryRun && o.wait:
		return filter, usagef("--dry-run orders nothing to wait for: leave out --wait")
	case o.simulate && len(args) > 0 && window:
		return filter, usagef("name deliveries or choose them with --since or --until, not both")
	case o.simulate:
	case len(args) == 0 && !window:
		return filter, usagef("name deliveries, or choose them with --failed, --since or --until")
	case len(args) > 0 && window:
		return filter, usagef("name deliveries or choose them with --failed, --since or --until, not both")
	case !o.dryRun:
		if o.reason, err = reason(o.reason); err != nil {
			return filter, err
		}
	}
	filter.Types = []eventlog.Type{eventlog.TypeReceived}
	return filter, parseTimes(now, timeFlag{"since", o.since, &filter.Since}, timeFlag{"until", o.until, &filter.Until})
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
		events, err := daemon.Answers(cfg, store).Delivery(ctx, id)
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

// parts are what is replayed of each delivery.
func (o replayOptions) parts() act.Parts {
	return act.Parts{Deployment: o.deployment, Failed: o.failed}
}

// replayRow is a line of `replay --json`.
type replayRow struct {
	DeliveryID  string   `json:"delivery_id"`
	Attempt     int      `json:"attempt,omitempty"`
	Commit      string   `json:"commit,omitempty"`
	Deployments []string `json:"deployments"`
	Reason      string   `json:"not_replayed,omitempty"`
	DryRun      bool     `json:"dry_run,omitempty"`
}

func newReplayRow(p act.Replay) replayRow {
	row := replayRow{DeliveryID: p.DeliveryID, Attempt: p.Attempt(), Deployments: []string{}}
	for _, a := range p.Runs {
		row.Deployments = append(row.Deployments, a.Deployment)
		row.Commit = a.Commit
	}
	if p.Why != nil {
		row.Reason = p.Why.Error()
	}
	return row
}

// replayAll replays deliveries in the order in which they came.
func (c *cli) replayAll(ctx context.Context, cfg *config.Config, store *daemon.Store, ids []string, o replayOptions) error {
	person := c.person(cfg, store)
	var plans []act.Replay
	for _, id := range ids {
		p, err := person.PlanReplay(ctx, id, o.parts())
		if err != nil {
			return err
		}
		plans = append(plans, p)
	}
	slices.SortStableFunc(plans, func(a, b act.Replay) int { return cmp.Compare(a.Received, b.Received) })
	if o.dryRun {
		return c.dryRun(plans, o)
	}
	count := int64(0)
	for _, p := range plans {
		if p.Why == nil {
			count++
		}
	}
	if count > maxUnasked && !o.yes {
		question := fmt.Sprintf("replay %s?", words.Counted(count, "delivery", "deliveries"))
		answer, err := c.ask(question+" [y/N] ", question+" stdin is not a terminal; pass --yes to confirm, or look first with --dry-run")
		if err != nil {
			return err
		}
		if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
			fmt.Fprintln(c.err, "nothing was replayed")
			return nil
		}
	}
	var errs []error
	var ordered []act.Replay
	var slugs []string
	for _, p := range plans {
		p, err := c.replay(ctx, person, p.DeliveryID, o)
		if errs = append(errs, err); err == nil {
			ordered = append(ordered, p)
		}
	}
	if len(ordered) > 0 {
		errs = append(errs, c.signAppended(ctx, cfg, store))
	}
	if !o.wait {
		for _, p := range ordered {
			slugs = append(slugs, newReplayRow(p).Deployments...)
		}
		c.warnOfObstacles(ctx, cfg, slugs...)
	} else {
		for _, p := range ordered {
			errs = append(errs, c.awaitLive(ctx, cfg, store, p.DeliveryID, p.Newest, o.json, newReplayRow(p).Deployments...))
		}
	}
	return errors.Join(errs...)
}

func (c *cli) dryRun(plans []act.Replay, o replayOptions) error {
	if o.json {
		for _, p := range plans {
			row := newReplayRow(p)
			row.DryRun = true
			if err := writeJSON(c.out, row); err != nil {
				return err
			}
		}
		return nil
	}
	t := c.newTable(column{name: "DELIVERY", id: true}, column{name: "DEPLOYMENT"}, column{name: "ATTEMPT", drop: 2},
		column{name: "COMMIT", id: true, drop: 1}, column{name: "WOULD RUN", text: true})
	for _, p := range plans {
		if p.Why != nil {
			t.paintedRow(4, yellow, p.DeliveryID, "-", "-", "-", "no: "+words.Shorten(p.Why.Error(), answer.MaxSummary))
		}
		for _, a := range p.Runs {
			t.row(p.DeliveryID, a.Deployment, fmt.Sprint(a.Attempt), a.Commit, "yes, by "+a.Rule)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.err, "hint: nothing was replayed; to do it, pass --reason TEXT instead of --dry-run")
	return err
}

// replay plans again, since others may have replayed meanwhile, and appends.
func (c *cli) replay(ctx context.Context, person *act.Person, id string, o replayOptions) (act.Replay, error) {
	p, err := person.Replay(ctx, id, o.parts(), o.reason)
	switch {
	case err != nil && p.Why == nil:
		return p, err
	case o.json:
		return p, cmp.Or(writeJSON(c.out, newReplayRow(p)), err)
	case err == nil:
		_, err = fmt.Fprintf(c.out, "replayed: %s as attempt %d of %s\n", printable(id), p.Attempt(), answer.Slugs(p.Runs))
	}
	return p, err
}
