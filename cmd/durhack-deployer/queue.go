package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) queueCommand() *cobra.Command {
	return group("queue", "List the queues, or rebuild those of the deployments", c.queueListCommand(), c.queueRebuildCommand())
}

func (c *cli) queueListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [QUEUE] [--json]", Short: "List the entries that wait, and those in quarantine",
		Long: `Lists the entries of the main queue and of each deployment's queue, from the
directories themselves: it works while the database is away. Entries in
quarantine could not be read; their reason is shown. Once the cause is fixed,
move the file back into the queue's directory, or delete it.`,
		Example: `  durhack-deployer queue list
  durhack-deployer queue list main --json`,
		Args: takesUpTo(0, "QUEUE"), ValidArgsFunction: c.completeSlug,
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			slugs, err := daemon.QueueNames(cfg)
			if err != nil {
				return err
			}
			names := append([]string{names.MainQueue}, slugs...)
			if len(args) == 1 {
				if !slices.Contains(names, args[0]) {
					return usagef("no queue %q in %s; one of: %s", args[0], filepath.Join(cfg.StateDir, "queues"), strings.Join(names, ", "))
				}
				names = args
			}
			var rows []answer.QueueRow
			for _, name := range names {
				more, err := answer.QueueEntries(cfg, name)
				if err != nil {
					return err
				}
				rows = append(rows, more...)
			}
			return c.printQueues(rows, asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (c *cli) printQueues(rows []answer.QueueRow, asJSON bool) error {
	if asJSON {
		return writeJSONLines(c.out, rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(c.out, "nothing waits")
		return nil
	}
	t := c.newTable(column{name: "QUEUE"}, column{name: "DELIVERY", id: true}, column{name: "SINCE"}, column{name: "STATE", text: true})
	for _, r := range rows {
		state := "waits, " + ago(time.Since(r.Since))
		if r.Reason != "" {
			state = "quarantined: " + r.Reason
		}
		t.row(r.Queue, orDash(r.DeliveryID), words.Clock(r.Since), state)
	}
	return t.flush()
}

func (c *cli) queueRebuildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rebuild", Short: "Rebuild the deployments' queues from the log",
		Long: `Makes the queue directories of the deployments what the log says they are:
files that are missing are written, files whose work has ended are removed. The
main queue is not touched: it is the one place that the log does not know yet.
The daemon may run meanwhile.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				if err := daemon.RebuildQueues(cmd.Context(), cfg, store, c.logger(slog.LevelWarn)); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.out, "rebuilt the queues of the deployments from the log")
				return err
			})
		},
	}
}
