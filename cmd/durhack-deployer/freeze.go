package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
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
			frozen := eventlog.Frozen{}
			var err error
			if frozen.Reason, err = reason(why); err != nil {
				return err
			}
			now := time.Now()
			if until != "" {
				if frozen.Until, err = parseUntil(until, now); err != nil {
					return err
				}
				frozen.Until = frozen.Until.UTC().Truncate(time.Second)
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				slug, err := oneOrAll(cfg, args)
				if err != nil {
					return err
				}
				if err := c.order(cmd.Context(), cfg, store, newDeliveryID(now), slug, frozen); err != nil {
					return err
				}
				end := "durhack-deployer thaw"
				if slug != "" {
					end += " " + slug
				}
				if !frozen.Until.IsZero() {
					end = clock(frozen.Until) + ", or " + end
				}
				_, err = fmt.Fprintf(c.out, "frozen: %s, until %s\n", whichOf(slug), end)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&until, "until", "", "when it ends by itself, `TIME`: "+untilForms)
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
				slug, err := oneOrAll(cfg, args)
				if err != nil {
					return err
				}
				models, err := readModels(cmd.Context(), store)
				if err != nil {
					return err
				}
				all, one, err := models.Freezes(cmd.Context(), cfg.Instance, slug)
				now := time.Now()
				switch {
				case err != nil:
					return err
				case slug == "" && !all.Active(now):
					return &hintedError{fmt.Errorf("there is no freeze of all deployments"), "`" + c.command("status") + "` says what is frozen; thaw SLUG ends the freeze of one"}
				case slug != "" && !one.Active(now) && all.Active(now):
					return &hintedError{fmt.Errorf("all deployments are frozen, and not %s by itself", slug), "`" + c.command("thaw") + "` without SLUG ends that"}
				case slug != "" && !one.Active(now):
					return fmt.Errorf("%s is not frozen", slug)
				}
				if err := c.order(cmd.Context(), cfg, store, newDeliveryID(now), slug, eventlog.Thawed{Reason: why}); err != nil {
					return err
				}
				if slug != "" && all.Active(now) {
					fmt.Fprintln(c.err, "note: all deployments are still frozen; `"+c.command("thaw")+"` without SLUG ends that")
				}
				_, err = fmt.Fprintf(c.out, "thawed: %s\n", whichOf(slug))
				return err
			})
		},
	}
	reasonFlag(cmd, &why)
	return cmd
}

// oneOrAll is the deployment that is named, or "" for all.
func oneOrAll(cfg *config.Config, args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	_, err := deployment(cfg, args[0])
	return args[0], err
}

func whichOf(slug string) string {
	if slug == "" || slug == projections.All {
		return "all deployments"
	}
	return slug
}
