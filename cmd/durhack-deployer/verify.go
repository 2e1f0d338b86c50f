package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// verifyOptions are the flags of `verify`.
type verifyOptions struct {
	proof, key string
	against    []string
	json       bool
}

func (c *cli) verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [--against FILE]... [--key KEY] [--json] | --proof FILE [--key KEY] [--json]",
		Short: "Prove that the log is as it was appended, and that all the rest follows from it",
		Long: `Recomputes the tree of the log from every event and compares it with every
stored hash, each stored body against the digest in its event, the head, and the
checkpoint that was signed last, with its signature. Then folds the whole log
and checks that every delivery is accounted for exactly once (received =
voided + finished + pending), that the read models are what the log gives, and
that each deployment's queue holds what the log says is waiting. Exit 1 and a line
for each breach.

--against proves that the log still contains what a checkpoint says that was
kept elsewhere: every event up to then, unchanged and in its place. KEY is the
verifier key that "keygen" printed; without it the signing key's own is used.

--proof checks a proof of "prove", without the database; with --key it needs no
configuration, either.`,
		Example: `  durhack-deployer verify
  durhack-deployer verify --against 2026-01-31.checkpoint
  durhack-deployer verify --proof 42.tlog-proof --key deploy.example.com/durhack-deployer/www1+0a1b2c3d+AbC...`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.proof != "" {
				if len(o.against) > 0 {
					return usagef("--proof is checked by itself: leave out --against")
				}
				return c.verifyProof(o)
			}
			if o.key != "" {
				if _, err := checkpoint.ParseVerifier(o.key); err != nil {
					return usagef("--key: %w", err)
				}
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				hashed, wipe := c.progress("events checked")
				folded, finish := c.progress("events folded")
				result, err := check.Verify(cmd.Context(), cfg, store, c.logger(slog.LevelWarn), check.VerifyOptions{
					Key: o.key, Against: o.against, TreeProgress: hashed, Progress: folded,
				})
				wipe()
				finish()
				if err != nil {
					return err
				}
				return c.verified(result, o)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.proof, "proof", "", "check the proof in this `FILE`, and nothing else")
	f.StringArrayVar(&o.against, "against", nil, "the log must contain the checkpoint in this `FILE`; may be repeated")
	f.StringVar(&o.key, "key", "", "the verifier `KEY` of the checkpoints (default: that of the signing key)")
	jsonFlag(cmd, &o.json)
	return cmd
}

// verified prints what was found.
func (c *cli) verified(v check.Verified, o verifyOptions) error {
	a := v.Accounting
	if o.json {
		err := writeJSON(c.out, map[string]any{
			"events": v.Events, "received": a.Received, "voided": a.Voided, "finished": a.Finished, "pending": a.Pending,
			"tree": map[string]any{"size": v.Tree.N, "root": v.Tree.Hash}, "bodies": v.Bodies, "redacted": v.Redacted, "left_out": v.LeftOut,
			"folded":      v.Folded,
			"checkpoints": notNil(v.Contained), "notes": notNil(v.Notes), "breaches": notNil(v.Breaches),
		})
		if err != nil {
			return err
		}
	} else {
		tell(c.err, "note", v.Notes)
		deliveries := "deliveries not counted, since the log does not fold"
		if v.Folded {
			deliveries = fmt.Sprintf("%s received = %d voided + %d finished + %d pending",
				words.Counted(int64(a.Received), "delivery", "deliveries"), a.Voided, a.Finished, a.Pending)
		}
		fmt.Fprintf(c.out, "%s; %s\n", words.Counted(v.Events, "event", "events"), deliveries)
		_, err := fmt.Fprintf(c.out, "root %s of %s; %s, %d redacted; %s\n", v.Tree.Hash, words.Counted(v.Tree.N, "event", "events"),
			words.Counted(v.Bodies, "body", "bodies"), v.Redacted, words.Counted(int64(len(v.Contained)), "checkpoint contained", "checkpoints contained"))
		if err != nil {
			return err
		}
		tell(c.out, "breach", v.Breaches)
	}
	if len(v.Breaches) > 0 {
		return &hintedError{
			errors.New(words.Counted(int64(len(v.Breaches)), "breach", "breaches")),
			"`projections rebuild` fixes read models, `queue rebuild` fixes queues; nothing fixes a breach of the log itself: see docs/operations.md",
		}
	}
	if v.Events == 0 {
		fmt.Fprintln(c.err, "warning: THE LOG IS EMPTY: it holds no event. That is right before the first push; after a restore it means that nothing was restored, or that this is another database (`durhack-deployer config show`)")
	}
	if o.json {
		return nil
	}
	_, err := fmt.Fprintln(c.out, "ok: the log, its hashes and bodies, the read models and the queues agree")
	return err
}

// maxProofFile bounds what is read as a proof, in bytes.
const maxProofFile = 64 << 20

// verifyProof checks a proof offline.
func (c *cli) verifyProof(o verifyOptions) error {
	key, err := c.verifierKey(o.key)
	if err != nil {
		return err
	}
	if info, err := os.Stat(o.proof); err == nil && info.Size() > maxProofFile {
		return fmt.Errorf("%s is too large for a proof", o.proof)
	}
	text, err := os.ReadFile(o.proof)
	if err != nil {
		return fmt.Errorf("read the proof: %w", err)
	}
	proof, err := checkpoint.ParseProof(text)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.proof, err)
	}
	e, at, err := proof.Check(key)
	if err != nil {
		return fmt.Errorf("%s proves nothing: %w", o.proof, err)
	}
	if o.json {
		return writeJSON(c.out, e)
	}
	fmt.Fprintln(c.out, newStory(painterFor(c.out), nil, false).line(e))
	_, err = fmt.Fprintf(c.out, "ok: this event is in the log that %s has signed at %s\n", printable(at.Origin), words.Counted(at.N, "event", "events"))
	return err
}
