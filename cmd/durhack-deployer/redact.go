package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) redactCommand() *cobra.Command {
	var why string
	var yes bool
	cmd := &cobra.Command{
		Use: "redact DELIVERY --reason TEXT [--yes]", Short: "Delete the body of a delivery for good",
		Long: `Deletes what a delivery brought with it, byte for byte: its stored body, and that
of each redelivery, with their salts. A "redacted" event with your name and the
reason says so. The events stay, and so does every proof, because the log holds
only a salted digest of a body. The delivery cannot be replayed afterwards, and
no body of it is stored again.

What the events say of it (repository, branch, commit, sender) stays, and so do
copies elsewhere: GitHub's own, and your backups.`,
		Example: `  durhack-deployer redact 72d3162e-cc78-11e3-81ab-4c9367dc0958 --reason "a token in the commit message"`,
		Args:    takes("DELIVERY"), ValidArgsFunction: completeNothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := reason(why)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				id, err := daemon.Answers(cfg, store).DeliveryID(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.redact(cmd.Context(), cfg, store, id, why, yes)
			})
		},
	}
	reasonFlag(cmd, &why)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// maxRedactions bounds how often a body may come in just before it is redacted.
const maxRedactions = 10

func (c *cli) redact(ctx context.Context, cfg *config.Config, store *daemon.Store, id, why string, yes bool) error {
	for attempt := 0; ; attempt++ {
		events, err := daemon.Answers(cfg, store).Delivery(ctx, id)
		if err != nil {
			return err
		}
		digests, redacted, err := bodies(events)
		if err != nil {
			return err
		}
		if redacted != nil {
			_, err := fmt.Fprintf(c.out, "%s was redacted already, at %s: %s\n", printable(id), words.Clock(redacted.RecordedAt), printable(answer.Summary(*redacted)))
			return err
		}
		if !yes {
			answer, err := c.ask(fmt.Sprintf("Delete the body of %s for good? It cannot be undone. Type yes to go on: ", printable(id)),
				"stdin is not a terminal; pass --yes to confirm")
			if err != nil {
				return err
			}
			if answer != "yes" {
				return errors.New("nothing was done")
			}
			yes = true
		}
		_, err = store.Log.Append(ctx, eventlog.Group{Transitions: []eventlog.Transition{{
			Instance: cfg.Instance, DeliveryID: id, Attempt: 1, Actor: actor(),
			Data: eventlog.Redacted{Reason: why, PayloadDigests: digests},
		}}})
		var conflict *eventlog.ConflictError
		if (errors.Is(err, eventlog.ErrOtherBodies) || errors.As(err, &conflict)) && attempt < maxRedactions {
			continue // it was just redelivered, or somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("redact %s: %w", id, err)
		}
		_, err = fmt.Fprintf(c.out, "redacted: %s deleted of %s\n", words.Counted(int64(len(digests)), "body was", "bodies were"), printable(id))
		return errors.Join(err, c.signAppended(ctx, cfg, store))
	}
}
