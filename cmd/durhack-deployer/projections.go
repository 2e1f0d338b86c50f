package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) projectionsCommand() *cobra.Command {
	return group("projections", "Rebuild or verify the read models, or say how far behind they are",
		c.projectionsRebuildCommand(), c.projectionsStatusCommand(), c.projectionsVerifyCommand())
}

func (c *cli) projectionsRebuildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rebuild", Short: "Rebuild the read models from the log", Args: takes(),
		Long: "Folds the whole log and replaces the read models with the result. The daemon may\nrun meanwhile.",
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
				_, err = fmt.Fprintf(c.out, "rebuilt from %s in %s\n", words.Counted(last, "event", "events"), time.Since(begin).Round(time.Millisecond))
				return err
			})
		},
	}
}

func (c *cli) projectionsStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status [--json]", Short: "Print how far each read model is behind the log", Args: takes(),
		Long: `Prints, for each read model, the version of its tables that is read, the position
that it has reached, the log's newest position, and the difference in events and
in seconds. ERROR says why it stopped, if it did: it is never behind in silence.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(_ *config.Config, store *daemon.Store) error {
				lag, err := projections.New(store.Pool, store.Log, discard()).Lag(cmd.Context())
				if err != nil {
					return err
				}
				row := daemon.NewProjectionState(lag)
				if asJSON {
					return writeJSON(c.out, row)
				}
				version := fmt.Sprint(row.Version)
				if row.Version != row.Wanted {
					version += fmt.Sprintf(" (%d is not built)", row.Wanted)
				}
				t := c.newTable(column{name: "PROJECTION"}, column{name: "VERSION", drop: 1}, column{name: "POSITION"}, column{name: "HEAD"},
					column{name: "LAG"}, column{name: "ERROR", text: true})
				t.row(row.Name, version, fmt.Sprint(row.Position), fmt.Sprint(row.Head), fmt.Sprintf("%s, %.1f s", words.Counted(row.Events, "event", "events"), row.Seconds), orDash(row.Error))
				return t.flush()
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// audited is the answer of `projections verify --json`.
type audited struct {
	// Checkpoint is the position at which tables and fold were compared.
	Checkpoint int64    `json:"checkpoint"`
	Breaches   []string `json:"breaches"`
	Notes      []string `json:"notes"`
}

func (c *cli) projectionsVerifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify [--json]", Short: "Compare the read models with the log, and the disk with them", Args: takes(),
		Long: `Folds the log and compares the read models with it, row by row. Then looks
at each configured deployment's directory: is the commit that is live the one that
is checked out, and are tracked files as the commit has them? Hand edits are named.
A commit that a failed run left behind is only noted. Exit 1 and a line for each breach.
The daemon may run meanwhile.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				show, finish := c.progress("events folded")
				at, found, err := check.Projections(cmd.Context(), cfg, store, c.logger(slog.LevelWarn), show)
				finish()
				if err != nil {
					return err
				}
				a := audited{Checkpoint: at, Breaches: notNil(found.Breaches), Notes: notNil(found.Notes)}
				return c.printAudited(a, asJSON)
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (c *cli) printAudited(a audited, asJSON bool) error {
	if asJSON {
		if err := writeJSON(c.out, a); err != nil {
			return err
		}
	} else {
		tell(c.out, "note", a.Notes)
		tell(c.out, "breach", a.Breaches)
	}
	if n := len(a.Breaches); n > 0 {
		return &hintedError{
			errors.New(words.Counted(int64(n), "breach", "breaches")),
			"`projections rebuild` fixes read models; a deploy fixes a directory: `deploy SLUG --ref COMMIT`",
		}
	}
	if asJSON {
		return nil
	}
	_, err := fmt.Fprintf(c.out, "ok: the read models are what the log gives up to position %d, and the disk has what is live\n", a.Checkpoint)
	return err
}
