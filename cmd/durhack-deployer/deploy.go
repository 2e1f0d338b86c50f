package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func (c *cli) deployCommand() *cobra.Command {
	var o act.Deploy
	var wait, asJSON bool
	cmd := &cobra.Command{
		Use: "deploy SLUG [--ref REF] [--override --reason TEXT] [--wait] [--json]", Short: "Deploy a branch's tip, or a commit, by hand",
		Long: `Puts a delivery of your own in the main queue, so that it takes the road of
every push: routed, logged, run by the daemon under the deployment's lock. REF
is a branch, a tag or a commit hash, or a unique beginning of one; without it the
tip of the deployment's branch is meant. A commit named with --ref is run even when
something newer is live: that is how to go back on purpose. With --override it is
run though the deployment is frozen or pinned, which stays so.`,
		Example: `  durhack-deployer deploy web --wait
  durhack-deployer deploy web --ref 3f1c2a9be7d0   # back to this commit, on purpose`,
		Args: takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if o.Override {
				if o.Reason, err = reason(o.Reason); err != nil {
					return err
				}
			} else if o.Reason != "" {
				return usagef("--reason goes with --override")
			}
			id, commit, err := c.person(cfg, nil).Deploy(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(c.out, map[string]string{"delivery_id": id, "deployment": args[0], "commit": commit})
			} else {
				_, err = fmt.Fprintf(c.out, "queued: %s at %s, delivery %s\n", printable(args[0]), words.ShortCommit(commit), id)
			}
			if err != nil && !errors.Is(err, errReaderLeft) {
				return err
			}
			if !wait {
				c.warnOfObstacles(cmd.Context(), cfg, args[0])
				if !asJSON {
					fmt.Fprintf(c.err, "hint: `%s` shows how it went; --wait waits for it\n", c.command("why", id))
				}
				return nil
			}
			// It is queued, so what counts is how it goes, however long the database is away.
			return c.withStoreOnce(cmd.Context(), cmd.Context(), eventlog.Transient, func(cfg *config.Config, store *daemon.Store) error {
				return c.awaitLive(cmd.Context(), cfg, store, id, 0, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&o.Override, "override", false, "run it though the deployment is frozen or pinned")
	reasonFlag(cmd, &o.Reason)
	cmd.Flags().StringVar(&o.Ref, "ref", "", "`REF` to deploy: a branch, a tag or a commit hash (default: the tip of the deployment's branch)")
	cmd.Flags().BoolVar(&wait, "wait", false, "print the story until it ends (with --json its events); exit 1 unless it went live")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// enqueue puts a delivery of one's own in the main queue.
func (c *cli) enqueue(ctx context.Context, cfg *config.Config, d delivery.Delivery) error {
	if err := daemon.MakeStateDir(cfg); err != nil {
		return err
	}
	main, err := queue.Open(cfg.QueueDir(names.MainQueue), c.logger(slog.LevelWarn))
	if err != nil {
		return fmt.Errorf("open the main queue: %w", err)
	}
	defer func() { _ = main.Close() }()
	if _, err = main.Put(ctx, d.ID, func(w io.Writer) error { return d.EncodeTo(w) }); err != nil {
		return fmt.Errorf("put the deploy in the main queue: %w", err)
	}
	return nil
}

// person is the one at the command line. Without a store they can deploy, and no more.
func (c *cli) person(cfg *config.Config, store *daemon.Store) *act.Person {
	p := &act.Person{
		Name: actor(), Config: cfg, Command: c.command,
		Commit: func(ctx context.Context, d *config.Deployment, ref string) (string, error) {
			return c.commit(ctx, cfg, d, ref)
		},
		Enqueue: func(ctx context.Context, d delivery.Delivery) error { return c.enqueue(ctx, cfg, d) },
	}
	if store != nil {
		p.Log, p.Models = store.Log, projections.New(store.Pool, store.Log, discard())
		p.Sign = func(ctx context.Context) error { return c.signAppended(ctx, cfg, store) }
	}
	return p
}
