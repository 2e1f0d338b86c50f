package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

type statusOptions struct {
	json     bool
	at       answer.Moment
	slug     string // of one deployment; empty is all
	exitCode bool
	verbose  bool
}

func (c *cli) statusCommand() *cobra.Command {
	var o statusOptions
	var at string
	cmd := &cobra.Command{
		Use: "status [SLUG] [--at TIME|POSITION] [--exit-code] [--verbose] [--json]", Short: "Print what is live at each deployment",
		Long: `Prints a line for each configured deployment: its status (never, pending,
running, live, failed, disabled), the commit that is live, since when, by whom
and by which delivery, and how many deliveries wait; then what needs attention.
With SLUG it is about that deployment alone. --at folds the log up to that moment instead: a time, or a position of the log
(digits only), whose event is the last one that counts. With --exit-code the exit
code is 1 where a deployment has failed, for scripts and monitors. --verbose also
tells how far GitHub and others have been told, and what they refused.`,
		Example: `  durhack-deployer status
  durhack-deployer status web --exit-code
  durhack-deployer status --at "2026-01-31 15:04"
  durhack-deployer status --at 1200
  durhack-deployer status --json | jq -r 'select(.status == "failed").slug'`,
		Args: takesUpTo(0, "SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.slug = args[0]
			}
			var err error
			if o.at, err = parseMoment(at, time.Now()); err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.status(cmd.Context(), cfg, store, o)
			})
		},
	}
	cmd.Flags().StringVar(&at, "at", "", "the state as it was at this position of the log, or "+timeUsage)
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 1 where a deployment has failed")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "also tell what is owed to the outside, such as GitHub")
	jsonFlag(cmd, &o.json)
	return cmd
}

// status prints the deployments, and ends in errFailing where that was asked for.
func (c *cli) status(ctx context.Context, cfg *config.Config, store *daemon.Store, o statusOptions) error {
	answers := daemon.Answers(cfg, store)
	known, err := answers.Deployments(ctx, o.at)
	if err != nil {
		return err
	}
	slugs := cfg.Slugs()
	if o.slug != "" {
		if _, err := answer.Deployment(cfg, o.slug); err != nil {
			return err
		}
		slugs = []string{o.slug}
	}
	rows, err := answers.Status(ctx, slugs, known, o.at)
	if err != nil {
		return err
	}
	failing := slices.ContainsFunc(rows, func(r answer.StatusRow) bool { return r.Status == string(projections.StatusFailed) })
	if o.json {
		err = writeJSONLines(c.out, rows)
	} else {
		empty := true
		for _, d := range known {
			empty = empty && d.Last == nil && d.Frozen == nil && d.Pinned == nil
		}
		err = c.printStatus(rows, o, empty)
	}
	if err != nil {
		return err
	}
	if !o.at.Set {
		notes := c.out
		if o.json {
			notes = c.err
		}
		if o.slug == "" {
			c.orphanNotes(cfg, known, notes)
		}
		if err := c.statusNotes(ctx, cfg, store, answers, notes); err != nil {
			return err
		}
		if o.verbose {
			if err := outboxNotes(ctx, cfg, store, notes); err != nil {
				return err
			}
		}
	}
	if o.exitCode && failing {
		return errFailing
	}
	return nil
}

func (c *cli) printStatus(rows []answer.StatusRow, o statusOptions, empty bool) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(c.out, "no deployments are configured")
		return err
	}
	if o.at.Set {
		fmt.Fprintf(c.out, "as of %s%s:\n", o.at, map[bool]string{true: ", when the log had no event of these"}[empty])
	}
	t := c.newTable(column{name: "DEPLOYMENT"}, column{name: "STATUS"}, column{name: "LIVE", id: true}, column{name: "SINCE"},
		column{name: "BY", drop: 2}, column{name: "DELIVERY", id: true, drop: 3}, column{name: "WAIT", drop: 1})
	var ids []string
	for _, row := range rows {
		live, since, by, id := "-", "-", "-", "-"
		if row.Commit != nil && row.Held == nil {
			live, since, by, id = *row.Commit, words.Clock(*row.Since), *row.Actor, *row.DeliveryID
		}
		if row.DeliveryID != nil { // also where only a note names it
			ids = append(ids, *row.DeliveryID)
		}
		for _, m := range []*answer.StatusMark{row.Running, row.Last} {
			if m != nil {
				ids = append(ids, m.DeliveryID)
			}
		}
		t.paintedRow(1, statusColour(row.Status), row.Slug, row.Status, live, since, by, id, fmt.Sprint(row.Pending))
	}
	if err := t.flush(); err != nil {
		return err
	}
	short := abbreviations(shortID, ids...)
	if c.wide {
		short = func(id string) string { return id }
	}
	for _, row := range rows {
		notes := append([]string{row.Note(short)}, row.Holds...)
		if row.Held != nil {
			notes = append(notes, fmt.Sprintf("%s; %s", row.Held, row.LastDeployed(short)))
		}
		for _, note := range notes {
			if note == "" {
				continue
			}
			if _, err := fmt.Fprintf(c.out, "%s: %s\n", printable(row.Slug), printable(note)); err != nil {
				return err
			}
		}
		if row.WaitsFor != "" {
			fmt.Fprintf(c.out, "%s: nothing starts: %s\n", printable(row.Slug), printable(row.WaitsFor))
		}
	}
	return nil
}

// orphanNotes tells of deployments that the table does not have, because they are
// not configured any more, though something of theirs has not ended.
func (c *cli) orphanNotes(cfg *config.Config, known map[string]projections.Deployment, w io.Writer) {
	for _, slug := range slices.Sorted(maps.Keys(known)) {
		d := known[slug]
		if cfg.Deployments[slug] != nil || d.Pending == 0 && d.Running == nil {
			continue
		}
		var open []string
		if d.Running != nil {
			open = append(open, fmt.Sprintf("the run of delivery %s has not ended", d.Running.DeliveryID))
		}
		if d.Pending > 0 {
			open = append(open, words.Counted(int64(d.Pending), "delivery waits", "deliveries wait"))
		}
		fmt.Fprintf(w, "%s is not in the configuration, but %s: put it back; with enabled = false what waits is voided\n",
			printable(slug), strings.Join(open, ", and "))
	}
}

// statusNotes says what the table cannot show: deliveries that are not routed
// yet, and read models that are behind.
func (c *cli) statusNotes(ctx context.Context, cfg *config.Config, store *daemon.Store, answers answer.Source, w io.Writer) error {
	foreign, err := daemon.Foreign(ctx, cfg, store)
	if err != nil {
		return err
	}
	if cfg.OtherInstance != "" {
		foreign = append([]string{cfg.OtherInstance}, foreign...)
	}
	for _, line := range foreign {
		fmt.Fprintln(w, printable(line))
	}
	main, err := queue.List(cfg.QueueDir(names.MainQueue))
	if err == nil && len(main) > 0 {
		fmt.Fprintf(w, "%s in the main queue, not routed yet: %s\n",
			words.Counted(int64(len(main)), "delivery is", "deliveries are"), printable(answers.NotRouted(ctx)))
	}
	lag, err := projections.New(store.Pool, store.Log, discard()).Lag(ctx)
	if err != nil {
		return err
	}
	switch {
	case lag.Err != nil:
		fmt.Fprintf(w, "this is as of position %d of %d, and stays so: %s\n", lag.Position, lag.Head, printable(daemon.ProjectionTrouble(lag)))
	case lag.Version != lag.Wanted && lag.Version > 0 && lag.Events > 0:
		fmt.Fprintf(w, "this is %s behind the log, until the read models of this version are built (see `projections status`)\n", words.Counted(lag.Events, "event", "events"))
	case lag.Events > 0:
		fmt.Fprintf(w, "this is %s behind the log: %s (see `projections status`)\n",
			words.Counted(lag.Events, "event", "events"), printable(answers.NotRouted(ctx)))
	}
	return nil
}

// outboxNotes says how far the outside has been told, and what it did not take.
func outboxNotes(ctx context.Context, cfg *config.Config, store *daemon.Store, w io.Writer) error {
	backlogs, err := outbox.Backlogs(ctx, store.Pool, cfg.Instance)
	if err != nil {
		return err
	}
	for _, b := range backlogs {
		fmt.Fprintf(w, "%s: %d owed, %d refused, %d given up, %s behind the log\n", b.Channel, b.Owed, b.Refused, b.GivenUp, words.Counted(b.Behind, "event", "events"))
	}
	troubles, err := outbox.Troubles(ctx, store.Pool, cfg.Instance)
	if err != nil {
		return err
	}
	for _, t := range troubles {
		fmt.Fprintf(w, "%s: %s: %s (%d, last %s): %s\n", t.Channel, t.Scope, strings.ReplaceAll(t.State, "_", " "), t.Count, words.Clock(t.Last), printable(t.Error))
	}
	return nil
}
