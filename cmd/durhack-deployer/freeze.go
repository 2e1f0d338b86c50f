package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) freezeCommand() *cobra.Command {
	var until, why string
	cmd := &cobra.Command{
		Use: "freeze [SLUG] [--until TIME] --reason TEXT", Short: "Let pushes wait, at one deployment or at all",
		Long: `Pushes are still recorded, and wait. When the freeze ends, by thaw or at the time of
--until, the newest of them is deployed, and the others are voided as superseded.
A run that has started goes on. "deploy --override" runs a commit all the same.`,
		Example: `  durhack-deployer freeze --until 18:00 --reason "the finals are on"
  durhack-deployer freeze web --reason "the database is being moved"`,
		Args: takesUpTo(0, "SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			var end time.Time
			if until != "" {
				if end, err = words.ParseUntil(until, time.Now()); err != nil {
					return usagef("--until: %w", err)
				}
				end = end.UTC().Add(time.Second - 1).Truncate(time.Second) // never before what was asked for
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				slug := optional(args)
				if err := c.person(cfg, store).Freeze(cmd.Context(), "", slug, end, why); err != nil {
					return err
				}
				thaw := "`" + c.command(slices.Concat([]string{"thaw"}, args, []string{"--reason", "..."})...) + "`"
				if !end.IsZero() {
					thaw = words.Clock(end) + ", or " + thaw
				}
				_, err := fmt.Fprintf(c.out, "frozen: %s, until %s\n", answer.WhichOf(slug), thaw)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&until, "until", "", "when it ends by itself, `TIME`: "+words.UntilForms)
	reasonFlag(cmd, &why)
	return cmd
}

func (c *cli) thawCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "thaw [SLUG] --reason TEXT", Short: "End a freeze",
		Long: `Ends the freeze of a deployment, or that of all. The newest push that has waited is
deployed, and the others are voided as superseded.`,
		Example: `  durhack-deployer thaw web --reason "the database is where it should be"`,
		Args:    takesUpTo(0, "SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				slug := optional(args)
				allStill, err := c.person(cfg, store).Thaw(cmd.Context(), "", slug, why)
				if err != nil {
					return err
				}
				if allStill {
					fmt.Fprintln(c.err, "note: all deployments are still frozen; `"+c.command("thaw", "--reason", "...")+"` ends that")
				}
				_, err = fmt.Fprintf(c.out, "thawed: %s\n", answer.WhichOf(slug))
				return err
			})
		},
	}
	reasonFlag(cmd, &why)
	return cmd
}

// optional is the argument that may be left out, or "".
func optional(args []string) string { return append(args, "")[0] }
