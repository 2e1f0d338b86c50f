package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) verifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify [--json]", Short: "Hold the log, the read models and the queues against each other",
		Long: `Folds the whole log afresh and checks that positions have no hole, that every
delivery is accounted for exactly once (received = voided + finished + pending),
that the read models are what the log gives, and that each deployment's queue
holds what the log says is waiting. Exit 1 and a line for each breach.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				progress, finish := c.progress("events folded")
				result, err := daemon.Verify(cmd.Context(), cfg, store, c.logger(slog.LevelWarn), progress)
				finish()
				if err != nil {
					return err
				}
				a := result.Accounting
				if asJSON {
					if result.Breaches == nil {
						result.Breaches = []string{}
					}
					err = writeJSON(c.out, map[string]any{
						"events": result.Events, "received": a.Received, "voided": a.Voided, "finished": a.Finished,
						"pending": a.Pending, "breaches": result.Breaches,
					})
				} else {
					_, err = fmt.Fprintf(c.out, "%s; %s received = %d voided + %d finished + %d pending\n",
						counted(result.Events, "event", "events"), counted(int64(a.Received), "delivery", "deliveries"), a.Voided, a.Finished, a.Pending)
				}
				if err != nil {
					return err
				}
				if len(result.Breaches) == 0 {
					if !asJSON {
						_, err = fmt.Fprintln(c.out, "ok: the log, the read models and the queues agree")
					}
					return err
				}
				if !asJSON {
					for _, b := range result.Breaches {
						fmt.Fprintf(c.out, "breach: %s\n", printable(b))
					}
				}
				return &hintedError{
					errors.New(counted(int64(len(result.Breaches)), "breach", "breaches")),
					"read models are mended by `projections rebuild`, queues by `queue rebuild`; a breach of the log itself by nothing: see docs/operations.md",
				}
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
