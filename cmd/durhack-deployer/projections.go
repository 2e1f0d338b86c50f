package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (c *cli) projectionsCommand() *cobra.Command {
	return group("projections", "Rebuild the read models, or say how far behind they are",
		c.projectionsRebuildCommand(), c.projectionsStatusCommand())
}

func (c *cli) projectionsRebuildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rebuild", Short: "Rebuild the read models from the log", Args: takes(),
		Long: "Folds the whole log anew and puts the result in place of the read models. The\ndaemon may run meanwhile.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(_ *config.Config, store *daemon.Store) error {
				begin, last := time.Now(), int64(0)
				show, finish := c.progress("events folded")
				err := projections.New(store.Pool, store.Log, c.logger(slog.LevelWarn)).Rebuild(cmd.Context(), func(done, total int64) {
					last = done
					show(done, total)
				})
				finish()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.out, "rebuilt from %s in %s\n", counted(last, "event", "events"), time.Since(begin).Round(time.Millisecond))
				return err
			})
		},
	}
}

// lagRow is a line of `projections status --json`.
type lagRow struct {
	Name     string  `json:"name"`
	Position int64   `json:"position"`
	Head     int64   `json:"head"`
	Events   int64   `json:"lag_events"`
	Seconds  float64 `json:"lag_seconds"`
	Error    string  `json:"error,omitempty"`
}

func (c *cli) projectionsStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status [--json]", Short: "Say how far each read model is behind the log", Args: takes(),
		Long: `Prints, for each read model, the position that it has reached, the log's newest
position, and the difference in events and in seconds. ERROR says why it stopped,
if it did: it is never behind in silence.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(_ *config.Config, store *daemon.Store) error {
				lags, err := projections.New(store.Pool, store.Log, discard()).Lag(cmd.Context())
				if err != nil {
					return err
				}
				t := newTable(c.out, "PROJECTION", "POSITION", "HEAD", "LAG", "ERROR")
				for _, l := range lags {
					row := lagRow{Name: l.Name, Position: l.Position, Head: l.Head, Events: l.Events, Seconds: l.Seconds}
					if l.Err != nil {
						row.Error = l.Err.Error()
					}
					if asJSON {
						if err := writeJSON(c.out, row); err != nil {
							return err
						}
						continue
					}
					t.row(row.Name, fmt.Sprint(row.Position), fmt.Sprint(row.Head), fmt.Sprintf("%s, %.1f s", counted(row.Events, "event", "events"), row.Seconds), orDash(row.Error))
				}
				if asJSON {
					return nil
				}
				return t.flush()
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
