package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/mod/sumdb/note"

	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/internal/verify"
	"github.com/ducompsoc/durhack-deployer/migrations"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// VerifyOptions are the parts of a verification that the caller chooses.
type VerifyOptions struct {
	// Key is the verifier key of the checkpoints; empty means that of the
	// signing key, if there is one that may be read.
	Key string
	// Against are files of older checkpoints, held elsewhere.
	Against []string
	// Progress is of the fold, TreeProgress of what comes before it; may be nil.
	Progress, TreeProgress func(done, total int64)
}

// Verified is what was found, and what could not be looked at.
type Verified struct {
	verify.Result
	// Notes say what was left out, for people, those of Result included.
	Notes []string
}

// Verify holds the log, its hashes, its bodies, the checkpoints that were signed
// of it, the read models and the queues against each other.
func Verify(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger, o VerifyOptions) (Verified, error) {
	var v Verified
	key, err := v.key(cfg, o.Key)
	if err != nil {
		return v, err
	}
	var held []verify.Held
	var breaches []string
	kept, err := signer.Kept(cfg.StateDir)
	switch {
	case err == nil:
		if c, err := open(kept, key); err != nil {
			breaches = append(breaches, fmt.Sprintf("checkpoint %s: %v", signer.Path(cfg.StateDir), err))
		} else {
			held = append(held, verify.Held{Name: signer.Path(cfg.StateDir), Checkpoint: c})
		}
	case errors.Is(err, fs.ErrNotExist):
		v.Notes = append(v.Notes, "no checkpoint was signed yet: who rewrites the whole log cannot be found out")
	default:
		v.Notes = append(v.Notes, fmt.Sprintf("the checkpoint that was signed last was not looked at: %v", err))
	}
	for _, path := range o.Against {
		signed, err := os.ReadFile(path)
		if err != nil {
			return v, fmt.Errorf("read the checkpoint: %w", err)
		}
		c, err := open(signed, key)
		if err != nil {
			breaches = append(breaches, fmt.Sprintf("checkpoint %s: %v", path, err))
			continue
		}
		held = append(held, verify.Held{Name: path, Checkpoint: c})
	}
	if key == nil && len(held) > 0 {
		v.Notes = append(v.Notes, "the signatures of the checkpoints were not checked: name their verifier key with --key")
	}
	unguarded, err := store.unguarded(ctx)
	if err != nil {
		return v, err
	}
	for _, guard := range unguarded {
		breaches = append(breaches, fmt.Sprintf("guard: the trigger %s is gone or is not enabled always: the database lets the log be changed", guard))
	}
	queues := newQueueSet(cfg, log)
	defer queues.close()
	m := newMirror(cfg, store, log, queues)
	v.Result, err = verify.Run(ctx, verify.Options{
		Instance: cfg.Instance, Tree: store.Log.Verify, Held: held, Audit: projections.New(store.Pool, store.Log, log).Audit,
		Expected: m.Expected,
		Others: func(ctx context.Context, ids []string) (map[string]string, error) {
			return mirror.Others(ctx, store.Log, cfg.Instance, ids)
		},
		QueueDir: func(slug string) string { return QueueDir(cfg, slug) }, Slugs: cfg.Slugs(),
		Progress: o.Progress, TreeProgress: o.TreeProgress,
	})
	v.Breaches = append(breaches, v.Breaches...)
	v.Notes = append(v.Notes, v.Result.Notes...)
	return v, err
}

// key is who must have signed; nil where that is not known.
func (v *Verified) key(cfg *config.Config, public string) (note.Verifier, error) {
	if public != "" {
		return checkpoint.ParseVerifier(public)
	}
	key, err := SigningKey(cfg)
	switch {
	case err != nil:
		v.Notes = append(v.Notes, fmt.Sprintf("the signing key cannot be used: %v", err))
	case key != nil:
		return key.Verifier(), nil
	}
	return nil, nil
}

// unguarded names the triggers that should guard the log and do not.
func (s *Store) unguarded(ctx context.Context) ([]string, error) {
	conn, err := s.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the triggers of the log: %w", err)
	}
	defer conn.Release()
	return migrations.Unguarded(ctx, conn.Conn())
}

func open(signed []byte, key note.Verifier) (checkpoint.Checkpoint, error) {
	if key == nil {
		return checkpoint.Unverified(signed)
	}
	return checkpoint.Open(signed, key)
}
