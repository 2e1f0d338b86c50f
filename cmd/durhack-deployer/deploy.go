package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func (c *cli) deployCommand() *cobra.Command {
	var o deployOrder
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
			if o.override {
				if o.reason, err = reason(o.reason); err != nil {
					return err
				}
			} else if o.reason != "" {
				return usagef("--reason goes with --override")
			}
			id, commit, err := c.enqueueDeploy(cmd.Context(), cfg, args[0], o)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(c.out, map[string]string{"delivery_id": id, "deployment": args[0], "commit": commit})
			} else {
				_, err = fmt.Fprintf(c.out, "queued: %s at %s, delivery %s\n", printable(args[0]), shortCommit(commit), id)
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
	cmd.Flags().BoolVar(&o.override, "override", false, "run it though the deployment is frozen or pinned")
	reasonFlag(cmd, &o.reason)
	cmd.Flags().StringVar(&o.ref, "ref", "", "`REF` to deploy: a branch, a tag or a commit hash (default: the tip of the deployment's branch)")
	cmd.Flags().BoolVar(&wait, "wait", false, "print the story until it ends (with --json its events); exit 1 unless it went live")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// deployOrder is what a deploy by hand asks for.
type deployOrder struct {
	// id is the delivery's; empty is a new one.
	id, ref string
	// override runs it though the deployment is frozen or pinned, for the reason.
	override bool
	reason   string
}

// enabled is a deployment to which something can be deployed.
func enabled(cfg *config.Config, slug string) (*config.Deployment, error) {
	d, err := deployment(cfg, slug)
	if err == nil && !d.Enabled {
		err = &hintedError{fmt.Errorf("deployment %q is disabled", slug), "set enabled = true and restart the daemon"}
	}
	return d, err
}

// enqueueDeploy resolves the reference and puts the delivery in the main queue.
func (c *cli) enqueueDeploy(ctx context.Context, cfg *config.Config, slug string, o deployOrder) (id, commit string, err error) {
	d, err := enabled(cfg, slug)
	if err != nil {
		return "", "", err
	}
	commit, err = c.commit(ctx, cfg, d, o.ref)
	if err != nil {
		return "", "", err
	}
	own := manualDeploy{Ref: "refs/heads/" + d.Branch, After: commit, Deployment: slug, RequestedRef: o.ref}
	own.Repository.FullName = d.Repository
	body, err := json.Marshal(own)
	if err != nil {
		return "", "", err
	}
	now := time.Now()
	entry := delivery.Delivery{
		ID: cmp.Or(o.id, newDeliveryID(now)), Event: "push", ContentType: "application/json", ReceivedAt: now.UTC(),
		Source: string(eventlog.SourceCLI), Actor: actor(), Deployment: slug, Forced: o.ref != "", Override: o.override, Reason: o.reason,
		Salt: delivery.NewSalt(), Body: body,
	}
	if err := daemon.MakeStateDir(cfg); err != nil {
		return "", "", err
	}
	main, err := queue.Open(daemon.QueueDir(cfg, names.MainQueue), c.logger(slog.LevelWarn))
	if err != nil {
		return "", "", fmt.Errorf("open the main queue: %w", err)
	}
	defer func() { _ = main.Close() }()
	_, err = main.Put(ctx, entry.ID, func(w io.Writer) error { return entry.EncodeTo(w) })
	if err != nil {
		return "", "", fmt.Errorf("put the deploy in the main queue: %w", err)
	}
	return entry.ID, commit, nil
}
