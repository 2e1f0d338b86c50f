package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/migrations"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// VerifyOptions are the parts of a verification that the caller chooses.
type VerifyOptions struct {
	// Key is the verifier key of the checkpoints; empty means that of the
	// signing key, if there is one that may be read.
	Key string
	// Against are files of older checkpoints, kept elsewhere.
	Against []string
	// Progress is of the fold, TreeProgress of what comes before it; may be nil.
	Progress, TreeProgress func(done, total int64)
}

// Verified is what was found.
type Verified struct {
	// Events is the number of events that were folded.
	Events     int64
	Accounting projections.Accounting
	// Tree is that of the events, as they are now.
	Tree tlog.Tree
	// Bodies were compared with their digests; Redacted ones are gone, as they should
	// be, and LeftOut ones were never there, as the import recorded.
	Bodies, Redacted, LeftOut int64
	// Folded is set where the log could be folded; Accounting is of that.
	Folded bool
	// Contained are the names of the checkpoints that the log contains.
	Contained []string
	// Found has what breaks the log's rules, and what could not be compared.
	Found
}

// verification is a run of Verify.
type verification struct {
	Verified
	cfg   *config.Config
	store *daemon.Store
	log   *slog.Logger
	o     VerifyOptions
}

// Verify compares the log with its hashes, its bodies, the checkpoints that were
// signed of it and its own rules, and then the read models and the queues with the
// log. The daemon may run meanwhile.
func Verify(ctx context.Context, cfg *config.Config, store *daemon.Store, log *slog.Logger, o VerifyOptions) (Verified, error) {
	v := &verification{cfg: cfg, store: store, log: log, o: o}
	checkpoints, err := v.checkpoints()
	if err != nil {
		return Verified{}, err
	}
	if err := v.guards(ctx); err != nil {
		return Verified{}, err
	}
	if err := v.tree(ctx, checkpoints); err != nil {
		return Verified{}, err
	}
	part, err := "fold", v.fold(ctx)
	if err == nil {
		part, err = "queues", v.queues(ctx)
	}
	if err != nil {
		if _, err := v.stopped(ctx, part, err); err != nil {
			return Verified{}, err
		}
	}
	v.keep()
	return v.Verified, nil
}

// maxKept bounds the breaches that are kept for the pages.
const maxKept = 20

// keep leaves what was found to those who look at the pages.
func (v *verification) keep() {
	raw, err := json.Marshal(answer.Verified{At: time.Now().UTC(), Events: v.Events, Breaches: v.Breaches[:min(maxKept, len(v.Breaches))]})
	if err == nil {
		err = durable.WriteFile(answer.VerifiedPath(v.cfg), append(raw, '\n'), 0o644)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a copy of a database may be verified without a state_dir
		v.note("what was found is not kept for the pages: %v", err)
	}
}

// namedCheckpoint is one that the log must contain. name says where it is.
type namedCheckpoint struct {
	name string
	checkpoint.Checkpoint
}

// checkpoints opens the one that was signed last, and those that the caller names.
func (v *verification) checkpoints() ([]namedCheckpoint, error) {
	key, err := v.key()
	if err != nil {
		return nil, err
	}
	var list []namedCheckpoint
	open := func(name string, signed []byte) {
		c, err := checkpoint.Unverified(signed)
		if key != nil {
			c, err = checkpoint.Open(signed, key)
		}
		if err != nil {
			v.breach("checkpoint %s: %v", name, err)
			return
		}
		list = append(list, namedCheckpoint{name, c})
	}
	kept, err := signer.Kept(v.cfg.StateDir)
	switch {
	case err == nil:
		open(signer.Path(v.cfg.StateDir), kept)
	case errors.Is(err, fs.ErrNotExist):
		v.note("no checkpoint was signed yet: a rewrite of the whole log cannot be detected")
	default:
		v.note("the checkpoint that was signed last was not looked at: %v", err)
	}
	for _, path := range v.o.Against {
		signed, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the checkpoint: %w", err)
		}
		open(path, signed)
	}
	if key == nil && len(list) > 0 {
		v.note("the signatures of the checkpoints were not checked: name their verifier key with --key")
	}
	return list, nil
}

// key is the verifier key of the checkpoints; nil where it is not known.
func (v *verification) key() (note.Verifier, error) {
	if v.o.Key != "" {
		return checkpoint.ParseVerifier(v.o.Key)
	}
	key, err := daemon.SigningKey(v.cfg)
	switch {
	case err != nil:
		v.note("the signing key cannot be used: %v", err)
	case key != nil:
		return key.Verifier(), nil
	}
	return nil, nil
}

// guards looks for the triggers that should guard the log.
func (v *verification) guards(ctx context.Context) error {
	conn, err := v.store.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("look at the triggers of the log: %w", err)
	}
	defer conn.Release()
	missing, err := migrations.Unguarded(ctx, conn.Conn())
	for _, guard := range missing {
		v.breach("guard: the trigger %s is gone or is not enabled always: the database lets the log be changed", guard)
	}
	return err
}

// tree verifies the events, their hashes and their bodies, and that the log
// contains the checkpoints.
func (v *verification) tree(ctx context.Context, checkpoints []namedCheckpoint) error {
	options := eventlog.VerifyOptions{Progress: v.o.TreeProgress}
	for _, c := range checkpoints {
		options.Sizes = append(options.Sizes, c.N)
	}
	found, err := v.store.Log.Verify(ctx, options)
	if err != nil {
		return err
	}
	v.Events, v.Tree, v.Bodies, v.Redacted, v.LeftOut = found.Tree.N, found.Tree, found.Bodies, found.Redacted, found.LeftOut
	if found.LeftOut > 0 {
		v.note("bodies named up to position %d: %d were left out when this log was imported, so nothing can be said about them", found.LeftOutTo, found.LeftOut)
	}
	for _, f := range found.Faults {
		v.breach("log: %s", f)
	}
	if found.More > 0 {
		v.breach("log: and %d more", found.More)
	}
	for _, c := range checkpoints {
		root, reached := found.Roots[c.N]
		switch {
		case !reached:
			v.breach("checkpoint %s: it is of %d events, but the log has %d: rows at the end were removed, or it is another log", c.name, c.N, found.Tree.N)
		case root != c.Hash:
			v.breach("checkpoint %s: the log does not contain it: among the first %d events some were changed, removed, inserted or put in another order since it was signed", c.name, c.N)
		default:
			v.Contained = append(v.Contained, c.name)
		}
	}
	return nil
}

// fold folds the log, and compares the read models with it.
func (v *verification) fold(ctx context.Context) error {
	audit, err := projections.New(v.store.Pool, v.store.Log, v.log).Audit(ctx, v.o.Progress)
	if err != nil {
		return err
	}
	v.Folded, v.Events, v.Accounting = true, audit.Head, audit.Accounting[v.cfg.Instance]
	if audit.NotBuilt != nil {
		v.note("%v: there is nothing to compare", audit.NotBuilt)
	}
	for _, instance := range slices.Sorted(maps.Keys(audit.Accounting)) {
		for _, b := range audit.Accounting[instance].Breaches {
			v.breach("log: %s", b)
		}
	}
	if a := v.Accounting; a.Received != a.Voided+a.Finished+a.Pending {
		v.breach("accounting: %d received, but %d voided + %d finished + %d pending", a.Received, a.Voided, a.Finished, a.Pending)
	}
	for _, d := range audit.Differences {
		v.breach("projection %s", d)
	}
	return nil
}

// stopped ends a verification that cannot go on. A log that was damaged need not
// fold: the error is then one of the breaches. So it is where the database answers,
// but not with what it should.
func (v *verification) stopped(ctx context.Context, part string, err error) (Verified, error) {
	if ctx.Err() != nil {
		return Verified{}, err
	}
	var (
		answer  *pgconn.PgError
		hole    *eventlog.HoleError
		unknown *eventlog.UnknownEventError
		ahead   *projections.AheadError
	)
	told := errors.As(err, &answer) && strings.HasPrefix(answer.Code, "42") || // no such table, no right to it
		errors.As(err, &hole) || errors.As(err, &unknown) || errors.As(err, &ahead)
	if len(v.Breaches) == 0 && !told {
		return Verified{}, err
	}
	v.breach("%s: nothing more can be checked: %v", part, err)
	return v.Verified, nil
}

// queues compares the deployments' queues with what the log says they should hold.
func (v *verification) queues(ctx context.Context) error {
	found, err := twice(ctx, v.compareQueues)
	v.Breaches = append(v.Breaches, found.Breaches...)
	return err
}

func (v *verification) compareQueues(ctx context.Context) (found Found, err error) {
	expected, err := daemon.ExpectedQueues(ctx, v.cfg, v.store, v.log)
	if err != nil {
		return found, err
	}
	slugs := slices.Compact(slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(expected)), v.cfg.Slugs()...))))
	for _, slug := range slugs {
		entries, err := queue.List(v.cfg.QueueDir(slug))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found.breach("queue %s: it cannot be looked at: %v", slug, err)
			continue
		}
		there := make(map[string]queue.Entry, len(entries))
		for _, e := range entries {
			there[e.Name] = e
		}
		for _, e := range expected[slug] {
			name := e.Name()
			if _, ok := there[name]; ok {
				delete(there, name)
			} else {
				found.breach("queue %s: %s is missing (ordered at position %d, not ended); a running daemon writes it within 30 s, and so does `durhack-deployer queue rebuild`", slug, name, e.Position)
			}
		}
		var ids []string
		for _, e := range there {
			ids = append(ids, e.DeliveryID)
		}
		others, err := mirror.Others(ctx, v.store.Log, v.cfg.Instance, ids)
		if err != nil {
			return found, err
		}
		for _, name := range slices.Sorted(maps.Keys(there)) {
			if others[there[name].ID.String()] != "" {
				continue // it waits for that instance
			}
			found.breach("queue %s: %s is there, but the log says that it has ended or was never ordered", slug, name)
		}
	}
	return found, nil
}
