package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	recovery "github.com/ducompsoc/durhack-deployer/internal/recover"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) recoverCommand() *cobra.Command {
	var since string
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use: "recover [--since TIME] [--dry-run] [--json]", Short: "Find pushes that GitHub did not deliver, now",
		Long: `Does at once what "serve" and "work" do now and then. With credentials in
[github], GitHub is asked for the pushes since TIME that it could not deliver and
of which the log knows nothing, and to send them again: at most three times each,
the oldest first, each once the one before it has come in. GitHub keeps deliveries
for three days. Then the remotes are asked for the tips of the branches: a tip of
which the log knows nothing is queued like a push. A deployment that never ran is
left alone. Exit code 1 says that something could not be asked.`,
		Example: `  durhack-deployer recover --dry-run
  durhack-deployer recover --since 2d`,
		Args: takes(), ValidArgsFunction: completeNothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			var from time.Time
			if err := parseTimes(now, timeFlag{"since", since, &from}); err != nil {
				return err
			}
			if from.After(now) {
				return usagef("--since: %s is still to come", since)
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.recover(cmd.Context(), cfg, store, from, dryRun, asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", "3d", "of GitHub's deliveries, those since "+timeUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what was missed")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// recovered is a line of what was missed, and what was done.
type recovered struct {
	Found string `json:"found"` // "delivery", also where that is of a tip, or "tip"
	*recovery.Lost
	*recovery.Missed
	// DeliveryID is GitHub's, or the one that the tip was queued as.
	DeliveryID string `json:"delivery_id,omitempty"`
	Done       string `json:"done"`
}

func (c *cli) recover(ctx context.Context, cfg *config.Config, store *daemon.Store, since time.Time, dryRun, asJSON bool) error {
	hub, err := daemon.NewGitHub(cfg, version().Version)
	if err != nil {
		return err
	}
	put := func(ctx context.Context, d delivery.Delivery) error { return c.enqueue(ctx, cfg, d) }
	r := daemon.NewRecovery(cfg, store, put, hub, actor(), c.logger(slog.LevelWarn))
	var rows []recovered
	var lost []recovery.Lost
	var failed []error
	if r.Deliveries == nil {
		fmt.Fprintln(c.err, "note: [github] has no credentials, so only the remotes are asked, and not GitHub for what it could not deliver")
	} else {
		var more []error
		if lost, more, err = r.Deliveries.Look(ctx, since); err != nil {
			return err
		}
		failed = append(failed, more...)
		if !dryRun {
			if more, err = r.Deliveries.Ask(ctx, lost); err != nil {
				return err
			}
			failed = append(failed, more...)
		}
		for _, l := range lost {
			row := recovered{Found: "delivery", DeliveryID: l.GUID, Lost: &l, Done: "left for now"}
			switch {
			case l.Exhausted():
				row.Done = "asked three times already"
			case dryRun:
				row.Done = "would be asked again"
			case r.Deliveries.Asked(l.GUID):
				row.Done = "asked again"
			}
			rows = append(rows, row)
		}
	}
	tips, more, err := r.Look(ctx)
	if err != nil {
		return err
	}
	failed = append(failed, more...)
	if dryRun && len(lost) > 0 { // else what was asked for again is known by now
		of, err := r.Deliveries.OfTips(ctx, lost, tips)
		if err != nil {
			failed = append(failed, err)
		}
		for i := range rows {
			row := &rows[i]
			m, ok := of[row.DeliveryID]
			if !ok {
				continue
			}
			if row.Missed = &m; row.Exhausted() {
				row.Done = "would be queued"
			}
			tips = slices.DeleteFunc(tips, func(t recovery.Missed) bool {
				return t.Branch == m.Branch && t.Commit == m.Commit && t.Repository == m.Repository
			})
		}
	}
	for _, m := range tips {
		row := recovered{Found: "tip", Missed: &m, Done: "would be queued"}
		if !dryRun {
			d, err := m.Delivery(act.NewID(time.Now()), actor(), time.Now())
			if err == nil {
				err = put(ctx, d)
			}
			if err != nil {
				return err
			}
			row.DeliveryID, row.Done = d.ID, "queued"
		}
		rows = append(rows, row)
	}
	if err := c.printRecovered(c.out, rows, len(failed) > 0, asJSON); err != nil {
		return err
	}
	return errors.Join(failed...)
}

func (c *cli) printRecovered(out io.Writer, rows []recovered, failed, asJSON bool) error {
	if asJSON {
		return writeJSONLines(out, rows)
	}
	if len(rows) == 0 {
		if !failed {
			fmt.Fprintln(out, "nothing was missed")
		}
		return nil
	}
	t := c.newTable(column{name: "DELIVERY", id: true}, column{name: "SENT", drop: 2}, column{name: "WHAT", text: true}, column{name: "DONE"})
	for _, r := range rows {
		sent := "-"
		var what []string
		if r.Missed != nil {
			what = append(what, fmt.Sprintf("the tip of %s %s, commit %s, for %s", r.Repository, r.Branch, words.ShortCommit(r.Commit), strings.Join(r.Deployments, ", ")))
		}
		if r.Lost != nil {
			sent = words.Clock(r.SentAt)
			what = append(what, fmt.Sprintf("%s could not deliver it: %s", r.Hook, r.Answer))
		}
		t.row(orDash(r.DeliveryID), sent, strings.Join(what, "; "), r.Done)
	}
	return t.flush()
}
