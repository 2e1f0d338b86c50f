package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
)

func (c *cli) checkpointCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "checkpoint [--out FILE]", Short: "Sign the log as it is now, and print the checkpoint",
		Long: `Signs a checkpoint of the log: its size and the root of its tree, in the form of
https://c2sp.org/tlog-checkpoint. Anyone who keeps one, where the operator of this
server cannot reach it, can find out later whether any event up to then was
changed, removed, inserted or put in another order ("verify --against FILE").
It is refused where the log does not contain the checkpoint signed before.`,
		Example: `  durhack-deployer checkpoint --out /mnt/elsewhere/$(date +%F).checkpoint`,
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				signed, _, err := c.sign(cmd.Context(), cfg, store)
				if err != nil {
					return err
				}
				return c.deliver(signed, out)
			})
		},
	}
	outFlag(cmd, &out)
	return cmd
}

func outFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "out", "", "write it to this `FILE` instead of printing it")
}

// deliver prints a text, or writes it to a file in one step.
func (c *cli) deliver(text []byte, file string) error {
	if file == "" {
		_, err := c.out.Write(text)
		return err
	}
	return durable.WriteFile(file, text, 0o644)
}

// sign signs a checkpoint of now.
func (c *cli) sign(ctx context.Context, cfg *config.Config, store *daemon.Store) ([]byte, checkpoint.Checkpoint, error) {
	key, err := daemon.SigningKey(cfg)
	if err == nil && key == nil {
		err = &hintedError{fmt.Errorf("there is no signing key: %s", daemon.SigningKeyPath(cfg)), "`" + c.command("keygen") + "` makes one"}
	}
	if err != nil {
		return nil, checkpoint.Checkpoint{}, err
	}
	signed, now, err := daemon.NewSigner(daemon.Options{Config: cfg, Logger: c.logger(slog.LevelWarn)}, store, key).Sign(ctx)
	var refused *signer.RefusedError
	if errors.As(err, &refused) {
		err = &hintedError{err, "`" + c.command("verify") + "` says what was changed; docs/operations.md what to do"}
	}
	return signed, now, err
}

// signAppended signs what the command has just appended, where there is a key: until it
// is signed it could be cut off unseen.
func (c *cli) signAppended(ctx context.Context, cfg *config.Config, store *daemon.Store) error {
	key, err := daemon.SigningKey(cfg)
	switch {
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(c.err, "note: you may not read the signing key; the daemon signs within a minute")
		return nil
	case key == nil && err == nil:
		return nil // the first start makes one
	}
	if _, _, err := c.sign(ctx, cfg, store); err != nil {
		return fmt.Errorf("it is in the log, but not signed: %w", err)
	}
	return nil
}

func (c *cli) proveCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "prove POSITION [--out FILE]", Short: "Prove to somebody else that an event is in the log",
		Long: `Prints a proof that the event at the position is in the log: the event, the
hashes that lead from it to the root, and a signed checkpoint, in the form of
https://c2sp.org/tlog-proof. Anyone who has the verifier key can check it without
this server: "verify --proof FILE --key KEY".

The checkpoint is one of now, or, where the signing key cannot be used, the one
that was signed last.`,
		Example: `  durhack-deployer prove 42 --out 42.tlog-proof
  durhack-deployer verify --proof 42.tlog-proof --key deploy.example.com/durhack-deployer/www1+0a1b2c3d+AbC...`,
		Args: takes("POSITION"), ValidArgsFunction: completeNothing,
		RunE: func(cmd *cobra.Command, args []string) error {
			position, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || position < 1 {
				return usagef("prove: %q is not a position: a number from 1 on, as `log` prints them", args[0])
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				signed, now, err := c.latest(cmd.Context(), cfg, store)
				if err != nil {
					return err
				}
				leaf, hashes, err := store.Log.Prove(cmd.Context(), now.Tree, position)
				var broken *eventlog.TreeError
				switch {
				case errors.Is(err, eventlog.ErrNoPosition):
					return &hintedError{err, "`" + c.command("log", "--limit", "1") + "` prints the newest event, with its position"}
				case errors.As(err, &broken):
					return &hintedError{err, "`" + c.command("verify") + "` says what was changed"}
				case err != nil:
					return err
				}
				return c.deliver(checkpoint.Proof{Leaf: leaf, Index: position - 1, Hashes: hashes, Signed: signed}.Marshal(), out)
			})
		},
	}
	outFlag(cmd, &out)
	return cmd
}

// latest is a checkpoint of now, or the one signed last where nothing can be signed.
func (c *cli) latest(ctx context.Context, cfg *config.Config, store *daemon.Store) ([]byte, checkpoint.Checkpoint, error) {
	key, err := daemon.SigningKey(cfg)
	if key != nil || err != nil && !errors.Is(err, fs.ErrPermission) {
		return c.sign(ctx, cfg, store)
	}
	signed, err := signer.Kept(cfg.StateDir)
	if err != nil {
		return c.sign(ctx, cfg, store) // which says what is missing
	}
	last, err := checkpoint.Unverified(signed)
	return signed, last, err
}
