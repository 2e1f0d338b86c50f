package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func (c *cli) queueCommand() *cobra.Command {
	return group("queue", "List the queues, or rebuild those of the deployments", c.queueListCommand(), c.queueRebuildCommand())
}

// queueRow is a line of `queue list --json`.
type queueRow struct {
	Queue      string    `json:"queue"`
	Entry      string    `json:"entry"`
	DeliveryID string    `json:"delivery_id"`
	Since      time.Time `json:"since"`
	// Reason is set for an entry in quarantine.
	Reason string `json:"quarantined,omitempty"`
}

func (c *cli) queueListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [QUEUE] [--json]", Short: "List what waits, and what is in quarantine",
		Long: `Lists the entries of the main queue and of each deployment's queue, from the
directories themselves: it works while the database is away. Entries in
quarantine could not be read; their reason is shown. Once the cause is mended,
move the file back into the queue's directory, or delete it.`,
		Example: `  durhack-deployer queue list
  durhack-deployer queue list main --json`,
		Args: takesUpTo(0, "QUEUE"), ValidArgsFunction: c.completeSlug,
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			names, err := queueNames(cfg)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if !slices.Contains(names, args[0]) {
					return usagef("no queue %q in %s; one of: %s", args[0], filepath.Join(cfg.StateDir, "queues"), strings.Join(names, ", "))
				}
				names = args
			}
			var rows []queueRow
			for _, name := range names {
				more, err := queueEntries(cfg, name)
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

func (c *cli) printQueues(rows []queueRow, asJSON bool) error {
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
		t.row(r.Queue, orDash(r.DeliveryID), clock(r.Since), state)
	}
	return t.flush()
}

// queueNames are the directories that there are, the main queue first.
func queueNames(cfg *config.Config) ([]string, error) {
	dirs, err := os.ReadDir(filepath.Join(cfg.StateDir, "queues"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	found := []string{names.MainQueue}
	for _, d := range dirs {
		if d.IsDir() && d.Name() != names.MainQueue {
			found = append(found, d.Name())
		}
	}
	return found, nil
}

func queueEntries(cfg *config.Config, name string) ([]queueRow, error) {
	dir := daemon.QueueDir(cfg, name)
	entries, err := queue.List(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list queue %s: %w", name, err)
	}
	var rows []queueRow
	for _, e := range entries {
		rows = append(rows, queueRow{Queue: name, Entry: e.Name, DeliveryID: e.DeliveryID, Since: ulid.Time(e.ID.Time())})
	}
	bad, err := queue.ListQuarantine(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list the quarantine of queue %s: %w", name, err)
	}
	for _, q := range bad {
		row := queueRow{Queue: name, Entry: q.Name, Reason: q.Reason, Since: q.Since}
		if e, err := queue.ParseName(q.Name); err == nil {
			row.DeliveryID = e.DeliveryID
		}
		rows = append(rows, row)
	}
	return rows, nil
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
