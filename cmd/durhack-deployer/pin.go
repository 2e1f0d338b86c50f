package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) pinCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "pin SLUG --reason TEXT", Short: "Keep a deployment at the commit that is live",
		Long: `Pushes to a pinned deployment are recorded and voided with the reason "pinned", until
it is unpinned. "deploy --override" runs a commit all the same; "rollback" puts an
earlier commit back and pins it.`,
		Example: `  durhack-deployer pin web --reason "the demo is tomorrow"`,
		Args:    takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				live, running, err := c.person(cfg, store).Pin(cmd.Context(), "", args[0], "", why)
				if err != nil {
					return err
				}
				if running != nil {
					fmt.Fprintf(c.err, "note: the run of %s goes on, and goes live all the same; `%s` ends it\n", words.ShortCommit(running.Commit), c.command("cancel", args[0]))
				}
				return c.tellPinned(args[0], live.Commit)
			})
		},
	}
	reasonFlag(cmd, &why)
	return cmd
}

func (c *cli) tellPinned(slug, commit string) error {
	_, err := fmt.Fprintf(c.out, "pinned: %s to %s, until `%s`\n", slug, words.ShortCommit(commit), c.command("unpin", slug, "--reason", "..."))
	return err
}

func (c *cli) unpinCommand() *cobra.Command {
	var why string
	var deploy bool
	cmd := &cobra.Command{
		Use: "unpin SLUG --reason TEXT [--deploy]", Short: "Let pushes be deployed again",
		Long: `Ends the pin of a deployment. What was voided meanwhile stays voided: --deploy deploys
the newest of it, and without it the command says which that is.`,
		Example: `  durhack-deployer unpin web --reason "the demo is over" --deploy`,
		Args:    takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.unpin(cmd.Context(), cfg, store, args[0], why, deploy)
			})
		},
	}
	cmd.Flags().BoolVar(&deploy, "deploy", false, "deploy the newest push that was voided because of the pin")
	reasonFlag(cmd, &why)
	return cmd
}

func (c *cli) unpin(ctx context.Context, cfg *config.Config, store *daemon.Store, slug, why string, deploy bool) error {
	person := c.person(cfg, store)
	missed, err := person.Unpin(ctx, "", slug, why)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "unpinned: %s\n", slug)
	switch {
	case missed == nil && deploy:
		fmt.Fprintln(c.err, "note: nothing newer than what is live came while it was pinned, so there is nothing to deploy")
	case missed == nil:
	case !deploy:
		fmt.Fprintf(c.err, "hint: the newest push that it missed is %s, by %s: `%s`\n", words.ShortCommit(missed.Commit), printable(missed.Actor), c.command("deploy", slug, "--ref", missed.Commit))
	default:
		id, commit, err := person.Deploy(ctx, slug, act.Deploy{Ref: missed.Commit, IfNewer: true})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "queued: %s at %s, delivery %s\n", slug, words.ShortCommit(commit), id)
		c.warnOfObstacles(ctx, cfg, slug)
	}
	return nil
}
