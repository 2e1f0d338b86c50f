package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) cancelCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "cancel SLUG [--reason TEXT]", Short: "End the run of a deployment that is going on",
		Long: `Records that the run is canceled, by whom and why; the daemon then ends its programs
and records it as failed. The deployment's other pushes go on. What waits is not
canceled: "freeze" and "pin" hold it.`,
		Example: `  durhack-deployer cancel web --reason "the wrong branch"`,
		Args:    takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.cancel(cmd.Context(), cfg, store, args[0], strings.TrimSpace(strings.ReplaceAll(why, "\x00", "")))
			})
		},
	}
	cmd.Flags().StringVar(&why, "reason", "", "why, for the log: `TEXT`")
	return cmd
}

func (c *cli) cancel(ctx context.Context, cfg *config.Config, store *daemon.Store, slug, why string) error {
	d, err := stateOf(ctx, cfg, store, slug)
	if err != nil {
		return err
	}
	run := d.Running
	if run == nil {
		return &hintedError{fmt.Errorf("nothing runs at %s", slug), "`" + c.command("freeze", slug) + "` keeps what waits from starting"}
	}
	_, err = store.Log.Append(ctx, eventlog.Group{
		Transitions: []eventlog.Transition{{
			Instance: cfg.Instance, DeliveryID: run.DeliveryID, Deployment: slug, Attempt: run.Attempt, Actor: actor(),
			Data: eventlog.Canceled{Reason: why},
		}},
		Fence: &eventlog.Fence{Instance: cfg.Instance, Deployment: slug, Position: run.Position},
	})
	var conflict *eventlog.ConflictError
	switch {
	case errors.Is(err, eventlog.ErrFenced):
		return &hintedError{fmt.Errorf("the run of %s has ended meanwhile", slug), "`" + c.command("why", run.DeliveryID) + "` shows how"}
	case errors.As(err, &conflict):
		return &hintedError{fmt.Errorf("it was canceled already"), "`" + c.command("why", run.DeliveryID) + "` says by whom"}
	case err != nil:
		return fmt.Errorf("append canceled: %w", err)
	}
	if err := c.signAppended(ctx, cfg, store); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "canceled: %s at %s, delivery %s, attempt %d\n", slug, shortCommit(run.Commit), printable(run.DeliveryID), run.Attempt)
	return err
}
