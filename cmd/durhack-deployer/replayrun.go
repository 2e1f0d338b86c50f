package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

// replayRow is a line of `replay --json`.
type replayRow struct {
	DeliveryID  string   `json:"delivery_id"`
	Attempt     int      `json:"attempt,omitempty"`
	Commit      string   `json:"commit,omitempty"`
	Deployments []string `json:"deployments"`
	Reason      string   `json:"not_replayed,omitempty"`
	DryRun      bool     `json:"dry_run,omitempty"`
}

// replayPlan is what a replay of one delivery would order.
type replayPlan struct {
	id       string
	received int64
	// newest is the position of the delivery's newest event, on which it was planned.
	newest int64
	runs   []eventlog.Assignment
	// why is set where there is nothing to order.
	why error
}

func (p replayPlan) attempt() int {
	attempt := 0
	for _, a := range p.runs {
		attempt = max(attempt, a.Attempt)
	}
	return attempt
}

func (p replayPlan) row() replayRow {
	row := replayRow{DeliveryID: p.id, Attempt: p.attempt(), Deployments: []string{}}
	for _, a := range p.runs {
		row.Deployments = append(row.Deployments, a.Deployment)
		row.Commit = a.Commit
	}
	if p.why != nil {
		row.Reason = p.why.Error()
	}
	return row
}

// replayAll replays deliveries in the order in which they came.
func (c *cli) replayAll(ctx context.Context, cfg *config.Config, store *daemon.Store, ids []string, o replayOptions) error {
	var plans []replayPlan
	for _, id := range ids {
		p, err := c.planReplay(ctx, cfg, store, id, o)
		if err != nil {
			return err
		}
		plans = append(plans, p)
	}
	slices.SortStableFunc(plans, func(a, b replayPlan) int { return cmp.Compare(a.received, b.received) })
	if o.dryRun {
		return c.dryRun(plans, o)
	}
	count := int64(0)
	for _, p := range plans {
		if p.why == nil {
			count++
		}
	}
	if count > maxUnasked && !o.yes {
		agreed, err := c.agree(fmt.Sprintf("replay %s?", counted(count, "delivery", "deliveries")))
		if err != nil || !agreed {
			return err
		}
	}
	var errs []error
	var ordered []replayPlan
	var slugs []string
	for _, p := range plans {
		p, err := c.replay(ctx, cfg, store, p.id, o)
		if errs = append(errs, err); err == nil {
			ordered = append(ordered, p)
		}
	}
	if len(ordered) > 0 {
		errs = append(errs, c.signAppended(ctx, cfg, store))
	}
	if !o.wait {
		for _, p := range ordered {
			slugs = append(slugs, p.row().Deployments...)
		}
		c.warnOfObstacles(ctx, cfg, slugs...)
	} else {
		for _, p := range ordered {
			errs = append(errs, c.awaitLive(ctx, cfg, store, p.id, p.newest, o.json, p.row().Deployments...))
		}
	}
	return errors.Join(errs...)
}

// planReplay says what a replay of the delivery would order. An error is one
// that keeps all from being replayed; what concerns this one is in the plan.
func (c *cli) planReplay(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, o replayOptions) (replayPlan, error) {
	p := replayPlan{id: id}
	events, err := deliveryEvents(ctx, cfg, store, id)
	if err != nil {
		return p, err
	}
	p.received, p.newest = events[0].Position, events[len(events)-1].Position
	body, err := storedDelivery(ctx, store, events)
	var missing *missingBodyError
	if errors.As(err, &missing) {
		p.why = err
		return p, nil
	}
	if err != nil {
		return p, err
	}
	only, err := o.parts(events)
	if err != nil {
		return p, err
	}
	runs, void, err := router.PlanReplay(events, body, router.Rules(cfg), only)
	switch {
	case errors.Is(err, router.ErrNotChosen):
		p.why = err
	case errors.Is(err, router.ErrOpen):
		p.why = &hintedError{err, "`" + c.command("why", id) + "` tells when it has ended; --deployment replays only another part"}
	case err != nil:
		return p, err
	case void != nil:
		p.why = &hintedError{
			fmt.Errorf("%s is not replayed, because it would be voided again: %s: %s", id, void.Reason, void.Detail),
			"fix the configuration first; `" + c.command("why", id) + "` tells its past",
		}
	}
	p.runs = runs
	return p, nil
}

func (c *cli) dryRun(plans []replayPlan, o replayOptions) error {
	if o.json {
		for _, p := range plans {
			row := p.row()
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
		if p.why != nil {
			t.paintedRow(4, yellow, p.id, "-", "-", "-", "no: "+shorten(p.why.Error(), maxSummary))
		}
		for _, a := range p.runs {
			t.row(p.id, a.Deployment, fmt.Sprint(a.Attempt), a.Commit, "yes, by "+a.Rule)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.err, "hint: nothing was replayed; to do it, pass --reason TEXT instead of --dry-run")
	return err
}

// agree asks on a terminal. Without one there is nobody to ask: a wrong call.
func (c *cli) agree(question string) (bool, error) {
	in, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) || !isTerminal(c.err) {
		return false, usagef("%s stdin is not a terminal; pass --yes to confirm, or look first with --dry-run", question)
	}
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	fmt.Fprintln(c.err, "nothing was replayed")
	return false, nil
}

// replay plans again, since others may have replayed meanwhile, and appends.
func (c *cli) replay(ctx context.Context, cfg *config.Config, store *daemon.Store, id string, o replayOptions) (replayPlan, error) {
	p, err := c.planReplay(ctx, cfg, store, id, o)
	if err != nil {
		return p, err
	}
	if p.why != nil {
		if o.json {
			if err := writeJSON(c.out, p.row()); err != nil {
				return p, err
			}
		}
		return p, p.why
	}
	_, err = store.Log.Append(ctx, eventlog.Group{
		Transitions: []eventlog.Transition{{
			Instance: cfg.Instance, DeliveryID: id, Attempt: p.attempt(), Actor: actor(),
			Data: eventlog.Replayed{Reason: strings.TrimSpace(o.reason), Deployments: p.runs},
		}},
		Fence: &eventlog.Fence{Instance: cfg.Instance, DeliveryID: id, Position: p.newest},
	})
	if errors.Is(err, eventlog.ErrFenced) {
		return c.replay(ctx, cfg, store, id, o) // something has come of it meanwhile
	}
	if err != nil {
		return p, fmt.Errorf("append the replay of %s: %w", id, err)
	}
	if o.json {
		return p, writeJSON(c.out, p.row())
	}
	_, err = fmt.Fprintf(c.out, "replayed: %s as attempt %d of %s\n", printable(id), p.attempt(), slugs(p.runs))
	return p, err
}
