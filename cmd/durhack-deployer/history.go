package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) historyCommand() *cobra.Command {
	var asJSON bool
	limit := 20
	cmd := &cobra.Command{
		Use: "history SLUG [--limit N] [--json]", Short: "List a deployment's attempts: who, from, to, how long, how it ended",
		Long: `Lists the attempts of a deployment, the newest last: when each was ordered and by
whom, from which commit to which, how long it waited in the queue, how long it
took, and how it ended. An attempt that was voided never ran.`,
		Example: `  durhack-deployer history web
  durhack-deployer history web --limit 5 --json | jq -r .result`,
		Args: takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit takes a number from 1 on, not %d", limit)
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				rows, _, err := daemon.Answers(cfg, store).History(cmd.Context(), args[0], projections.Place{}, limit)
				if err != nil {
					return err
				}
				return c.tellHistory(rows, args[0], limit, asJSON)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "the newest `N` attempts")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (c *cli) tellHistory(rows []answer.AttemptRow, slug string, limit int, asJSON bool) error {
	if asJSON {
		return writeJSONLines(c.out, rows)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintf(c.out, "no deploys of %s yet\n", printable(slug))
		return err
	}
	t := c.newTable(column{name: "ORDERED"}, column{name: "DELIVERY", id: true}, column{name: "BY", drop: 2}, column{name: "FROM", id: true, drop: 3},
		column{name: "TO", id: true}, column{name: "WAITED", drop: 4}, column{name: "TOOK", drop: 1}, column{name: "RESULT", text: true})
	for _, r := range rows {
		t.paintedRow(7, outcomeColour(r.Result), words.Clock(r.OrderedAt), r.DeliveryID+attemptTail(r.Attempt), r.Actor,
			orDash(r.PreviousCommit), orDash(r.Commit), orMillis(r.QueueWaitMS), orMillis(r.DurationMS), r.Ended())
	}
	if err := t.flush(); err != nil || len(rows) < limit {
		return err
	}
	_, err := fmt.Fprintf(c.err, "hint: these are the newest %d; --limit N shows more\n", limit)
	return err
}
