package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/materializer"
	"github.com/ducompsoc/durhack-deployer/internal/verify"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// QueueDir is the directory of a queue: of a deployment, or the main one.
func QueueDir(cfg *config.Config, name string) string {
	return filepath.Join(cfg.StateDir, "queues", name)
}

// MakeStateDir makes state_dir and the folder of queues where they are missing.
// Others may pass through state_dir but not list it: the private Postgres runs
// as a user of its own when we are root, and each folder below guards itself.
func MakeStateDir(cfg *config.Config) error {
	if err := os.MkdirAll(cfg.StateDir, 0o751); err != nil { //nolint:gosec // see above
		return fmt.Errorf("make state_dir: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(cfg.StateDir, "queues"), 0o751); err != nil { //nolint:gosec // queues/main may be shared with a group
		return fmt.Errorf("make the folder of queues: %w", err)
	}
	return nil
}

// queueSet opens each deployment's queue once, so that what the materializer
// writes wakes the worker without a detour through the file system.
type queueSet struct {
	cfg *config.Config
	log *slog.Logger

	mu   sync.Mutex
	open map[string]*queue.Queue
	// retired are those whose directory was removed under them.
	retired []*queue.Queue
}

func newQueueSet(cfg *config.Config, log *slog.Logger) *queueSet {
	return &queueSet{cfg: cfg, log: log, open: make(map[string]*queue.Queue)}
}

func (s *queueSet) get(slug string) (*queue.Queue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.open[slug]; q != nil {
		replaced, err := q.Replaced()
		if err != nil || !replaced {
			return q, err
		}
		s.retired = append(s.retired, q) // its worker may still be looking at it
	}
	q, err := queue.Open(QueueDir(s.cfg, slug), s.log.With("queue", slug))
	if err != nil {
		return nil, err
	}
	s.open[slug] = q
	return q, nil
}

// close closes them all; their watchers must be closed before.
func (s *queueSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range slices.Concat(s.retired, slices.Collect(maps.Values(s.open))) {
		_ = q.Close() // nothing was written through it that is not on disk
	}
	clear(s.open)
}

func newMaterializer(cfg *config.Config, store *Store, log *slog.Logger, queues *queueSet) *materializer.Materializer {
	return materializer.New(materializer.Options{
		Instance: cfg.Instance, QueuesDir: filepath.Join(cfg.StateDir, "queues"), OpenQueue: queues.get,
		Slugs: cfg.Slugs(), Log: store.Log, Pool: store.Pool, Logger: log,
	})
}

// RebuildQueues makes the deployments' queues what the log says they are.
func RebuildQueues(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger) error {
	queues := newQueueSet(cfg, log)
	defer queues.close()
	return newMaterializer(cfg, store, log, queues).Rebuild(ctx)
}

// Verify holds the log, the read models and the queues against each other.
func Verify(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger, progress func(done, total int64)) (verify.Result, error) {
	queues := newQueueSet(cfg, log)
	defer queues.close()
	m := newMaterializer(cfg, store, log, queues)
	return verify.Run(ctx, verify.Options{
		Instance: cfg.Instance, Audit: projections.New(store.Pool, store.Log, log).Audit,
		Expected: m.Expected, Checkpoint: m.Checkpoint,
		QueueDir: func(slug string) string { return QueueDir(cfg, slug) }, Slugs: cfg.Slugs(), Progress: progress,
	})
}

// VerifyProjections holds the read models against a fresh fold of the log, and the
// directories of the configured deployments against them.
func VerifyProjections(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger, progress func(done, total int64)) (projections.Audit, verify.Disk, error) {
	p := projections.New(store.Pool, store.Log, log)
	audit, err := p.Audit(ctx, progress)
	if err != nil {
		return audit, verify.Disk{}, err
	}
	var places []verify.Place
	for _, slug := range cfg.Slugs() {
		d := cfg.Deployments[slug]
		places = append(places, verify.Place{Slug: slug, Path: d.Path, Tree: Repository(cfg, d)})
	}
	disk, err := verify.CheckDisk(ctx, cfg.Instance, p, places)
	if err != nil {
		return audit, disk, fmt.Errorf("hold the disk against the read models: %w", err)
	}
	return audit, disk, nil
}
