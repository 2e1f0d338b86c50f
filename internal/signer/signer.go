// Package signer vouches for the log: it signs checkpoints of its tree, keeps
// the latest in a file outside of the database, and never signs one that does
// not contain the one it signed before.
package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/lock"
)

// DefaultInterval is how often a log that has grown is signed, at the least.
const DefaultInterval = time.Minute

// Overdue is how long an event may be without a signature before that is an error.
const Overdue = 2 * time.Minute

// fileName is the kept checkpoint's, and its lock's, in the state directory.
const fileName = "checkpoint"

// Path is the file of the kept checkpoint.
func Path(dir string) string { return filepath.Join(dir, fileName) }

// Log is what the signer asks of the event log.
type Log interface {
	Head(ctx context.Context) (int64, error)
	Read(ctx context.Context, after int64, limit int) ([]eventlog.Event, error)
	Grow(ctx context.Context, old tlog.Tree) (tlog.Tree, error)
	Follow(ctx context.Context, after int64, apply func(ctx context.Context, events []eventlog.Event) error) error
}

// Options are what a Signer works on.
type Options struct {
	Key *checkpoint.Key
	Log Log
	// Dir is the state directory, where the latest checkpoint is kept.
	Dir string
	// Interval is DefaultInterval, and Overdue that of the package, where it is 0.
	Interval, Overdue time.Duration
	Logger            *slog.Logger
}

// Signer signs. Several, in several processes, may share a Dir.
type Signer struct {
	o Options

	mu sync.Mutex
	// seen is the furthest that the log was seen to go, signed what is signed of it.
	// Where there is more to sign, that is known since unsigned.
	seen, signed int64
	unsigned     time.Time
	// failed is why the last attempt did not sign, nil after one that did.
	failed error
}

// New returns a Signer. It starts nothing.
func New(o Options) *Signer {
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Overdue == 0 {
		o.Overdue = Overdue
	}
	return &Signer{o: o}
}

// saw notes that the log goes to head, or that it is signed up to there.
func (s *Signer) saw(head, signed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := signed > s.signed
	s.seen, s.signed = max(s.seen, head, signed), max(s.signed, signed)
	switch {
	case s.seen <= s.signed:
		s.unsigned = time.Time{}
	case s.unsigned.IsZero() || more:
		s.unsigned = time.Now()
	}
}

// Behind says how many of the events that were seen are not signed, and since when
// there are any; 0 and the zero time where there are none.
func (s *Signer) Behind() (events int64, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen - s.signed, s.unsigned
}

// Trouble is why nobody can rely on the log being signed, "" where all is well: what is
// there is not what was signed or seen before, or was not signed for too long.
func (s *Signer) Trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tampered() {
		return s.failed.Error()
	}
	if s.unsigned.IsZero() || time.Since(s.unsigned) < s.o.Overdue {
		return ""
	}
	why := "the attempt does not end: something holds the database's tables or the lock of the signer"
	if s.failed != nil {
		why = s.failed.Error()
	}
	return fmt.Sprintf("the log goes to position %d, and nothing after %d is signed, since %s: %s", s.seen, s.signed, s.unsigned.UTC().Format(time.RFC3339), why)
}

func (s *Signer) tampered() bool {
	_, refused := errors.AsType[*RefusedError](s.failed)
	return refused
}

// Tampered says that the log was not what was signed when that was tried last.
func (s *Signer) Tampered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tampered()
}

// RefusedError says that the log is not one that the kept checkpoint has grown
// into, so that nothing may be signed.
type RefusedError struct {
	// Kept is the checkpoint that was signed last.
	Kept checkpoint.Checkpoint
	Err  error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused to sign: the log is not consistent with the checkpoint of %d events that was signed last: %v", e.Kept.N, e.Err)
}

// Unwrap returns how that shows.
func (e *RefusedError) Unwrap() error { return e.Err }

// Kept returns the checkpoint that was signed last, as it is in the file;
// fs.ErrNotExist where nothing was signed yet. Nothing about it was checked.
func Kept(dir string) ([]byte, error) {
	return os.ReadFile(Path(dir))
}

// Sign returns a signed checkpoint of the log as it is now. It is kept before it
// is returned; where the log has not grown it is the kept one. A *RefusedError
// says that the log was tampered with.
func (s *Signer) Sign(ctx context.Context) (signed []byte, now checkpoint.Checkpoint, err error) {
	ctx, release, err := lock.OfProcesses(s.o.Dir).Acquire(ctx, fileName)
	if err != nil {
		return nil, now, fmt.Errorf("sign a checkpoint: %w", err)
	}
	defer func() { _ = release() }()
	signed, last, tree, err := s.grown(ctx)
	if err != nil {
		return nil, now, err
	}
	if tree.N == last.N && signed != nil {
		return signed, last, nil
	}
	now = checkpoint.Checkpoint{Origin: s.o.Key.Name(), Tree: tree}
	if signed, err = now.Sign(s.o.Key); err != nil {
		return nil, now, err
	}
	if err := durable.WriteFile(Path(s.o.Dir), signed, 0o644); err != nil {
		return nil, now, fmt.Errorf("keep the signed checkpoint: %w", err)
	}
	return signed, now, nil
}

// Unsigned is what was appended since the last checkpoint: how many events, and
// when the first of them was recorded.
type Unsigned struct {
	Events int64
	Since  time.Time
}

// Check says whether the log is one that may be signed, and what of it is not signed
// yet. It signs nothing. Errors are those of Sign.
func (s *Signer) Check(ctx context.Context) (u Unsigned, err error) {
	_, last, tree, err := s.grown(ctx)
	if err != nil || tree.N == last.N {
		return u, err
	}
	first, err := s.o.Log.Read(ctx, last.N, 1)
	if err != nil {
		return u, err
	}
	return Unsigned{tree.N - last.N, first[0].RecordedAt}, nil
}

// grown returns the checkpoint that was signed last (nil and the empty tree where
// there is none), and the tree that the log has become since.
func (s *Signer) grown(ctx context.Context) ([]byte, checkpoint.Checkpoint, tlog.Tree, error) {
	signed, last, err := s.kept()
	if err != nil {
		return nil, last, tlog.Tree{}, err
	}
	s.mu.Lock()
	seen := s.seen
	s.mu.Unlock()
	tree, err := s.o.Log.Grow(ctx, last.Tree)
	if err == nil && tree.N < seen {
		err = &eventlog.TreeError{Position: tree.N + 1, Text: fmt.Sprintf("the log ends before it, but it has gone to %d since this process runs", seen)}
	}
	if broken, ok := errors.AsType[*eventlog.TreeError](err); ok {
		err = &RefusedError{last, broken}
	} else if err != nil {
		err = fmt.Errorf("compare the log with the checkpoint that was signed last: %w", err)
	}
	return signed, last, tree, err
}

// kept reads the last checkpoint; nil and the empty tree where there is none.
func (s *Signer) kept() ([]byte, checkpoint.Checkpoint, error) {
	signed, err := Kept(s.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, checkpoint.Checkpoint{}, nil
	}
	if err != nil {
		return nil, checkpoint.Checkpoint{}, fmt.Errorf("read the checkpoint that was signed last: %w", err)
	}
	last, err := checkpoint.Open(signed, s.o.Key.Verifier())
	if err != nil {
		return nil, checkpoint.Checkpoint{}, fmt.Errorf("%s, which should be what was signed last, cannot be built upon (if the key was changed on purpose, move the file away): %w", Path(s.o.Dir), err)
	}
	return signed, last, nil
}

// Run signs now, after each finished deploy, and at each interval in which the
// log has grown, until ctx ends (nil). Whatever keeps it from signing is logged,
// and tried again at the next occasion; as an error once events are overdue.
func (s *Signer) Run(ctx context.Context) error {
	head, err := s.o.Log.Head(ctx)
	if err != nil {
		return fmt.Errorf("start to sign checkpoints: %w", err)
	}
	s.saw(head, 0)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan struct{}, 1)
	var following sync.WaitGroup
	var followErr error
	following.Go(func() {
		defer cancel()
		followErr = s.o.Log.Follow(ctx, head, func(_ context.Context, events []eventlog.Event) error {
			for _, e := range events {
				s.saw(e.Position, 0)
				if e.Type == eventlog.TypeDeployed || e.Type == eventlog.TypeFailed {
					select {
					case finished <- struct{}{}:
					default:
					}
				}
			}
			return nil
		})
	})
	following.Go(func() { s.watch(ctx) })
	interval := time.NewTicker(s.o.Interval)
	defer interval.Stop()
	for ctx.Err() == nil {
		s.try(ctx)
		select {
		case <-ctx.Done():
		case <-finished:
		case <-interval.C:
		}
	}
	cancel()
	following.Wait()
	if errors.Is(followErr, context.Canceled) {
		return nil
	}
	return followErr
}

// watch logs it when events are overdue, also while an attempt to sign hangs.
func (s *Signer) watch(ctx context.Context) {
	tick := time.NewTicker(s.o.Overdue / 8)
	defer tick.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		trouble := s.Trouble()
		if trouble != "" && !said {
			s.o.Logger.Error("the log is not signed: what is appended now could be changed unseen", "error", trouble)
		}
		said = trouble != ""
	}
}

func (s *Signer) try(ctx context.Context) {
	_, c, err := s.Sign(ctx)
	if ctx.Err() == nil {
		s.mu.Lock()
		s.failed = err
		s.mu.Unlock()
	}
	if err == nil {
		s.saw(0, c.N)
	}
	_, refused := errors.AsType[*RefusedError](err)
	switch {
	case ctx.Err() != nil:
	case refused:
		s.o.Logger.Error("the log was tampered with; no checkpoint is signed until it is as it was: run durhack-deployer verify", "error", err)
	case err != nil:
		s.o.Logger.Warn("no checkpoint was signed; it is tried again", "error", err)
	default:
		s.o.Logger.Debug("the log is signed", "size", c.N, "root", c.Hash.String())
	}
}
