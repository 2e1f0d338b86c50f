package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// MakeStateDir makes state_dir and the folder of queues where they are missing.
// Others may pass through state_dir but not list it: the private Postgres runs
// as its own user when we are root, and each folder below guards itself.
func MakeStateDir(cfg *config.Config) error {
	if err := makeDir(cfg.StateDir); err != nil {
		return fmt.Errorf("make state_dir: %w", err)
	}
	// queues/main may be shared with a group.
	if err := makeDir(filepath.Join(cfg.StateDir, "queues")); err != nil {
		return fmt.Errorf("make the folder of queues: %w", err)
	}
	return nil
}

// makeDir makes a directory that others may pass, whatever the umask: under a
// strict one the user of the private Postgres could not get to it. One that is
// there keeps its mode.
func makeDir(path string) error {
	const mode = 0o751
	if err := os.MkdirAll(filepath.Dir(path), mode); err != nil {
		return err
	}
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrExist) {
		return os.MkdirAll(path, mode)
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// QueueNames are the directories of deployments' queues that there are.
func QueueNames(cfg *config.Config) ([]string, error) {
	dirs, err := os.ReadDir(filepath.Join(cfg.StateDir, "queues"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	var found []string
	for _, dir := range dirs {
		if dir.IsDir() && dir.Name() != names.MainQueue {
			found = append(found, dir.Name())
		}
	}
	return found, nil
}

// LookAtQueue lists what waits in a queue, and what is in its quarantine. It is an error
// where not all of it can be read.
func LookAtQueue(cfg *config.Config, name string) (waiting []queue.Entry, quarantined []queue.QuarantinedFile, err error) {
	dir := cfg.QueueDir(name)
	waiting, err = queue.List(dir)
	quarantined, badErr := queue.ListQuarantine(dir)
	if err == nil {
		err = queue.Unreadable(dir)
	}
	return waiting, quarantined, errors.Join(err, badErr)
}

// Orphans are the queues in which something waits, by name with how much, whose
// deployment is not in the configuration: nobody works on them.
func Orphans(cfg *config.Config) (map[string]int, error) {
	names, err := QueueNames(cfg)
	if err != nil {
		return nil, err
	}
	orphans := map[string]int{}
	var errs []error
	for _, name := range names {
		if cfg.Deployments[name] == nil {
			entries, err := queue.List(cfg.QueueDir(name))
			if err != nil {
				errs = append(errs, fmt.Errorf("queue %s: %w", name, err))
			}
			if len(entries) > 0 {
				orphans[name] = len(entries)
			}
		}
	}
	return orphans, errors.Join(errs...)
}

// warnOfOrphans tells of deployments that were removed or renamed while
// something waited for them. They are left alone: a slip of the pen in the
// configuration must not void pushes.
func warnOfOrphans(cfg *config.Config, log *slog.Logger) {
	orphans, err := Orphans(cfg)
	if err != nil {
		log.Warn("cannot look for queues without a deployment", "error", err)
	}
	for _, name := range slices.Sorted(maps.Keys(orphans)) {
		log.Warn("deliveries wait for a deployment that is not in the configuration", "deployment", name, "waiting", orphans[name])
	}
}

// queueSet opens each deployment's queue once, so that what the mirror
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
	q, err := queue.Open(s.cfg.QueueDir(slug), s.log.With("queue", slug), queue.Derived())
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

func newMirror(cfg *config.Config, store *Store, log *slog.Logger, queues *queueSet) *mirror.Mirror {
	return mirror.New(mirror.Options{
		Instance: cfg.Instance, QueuesDir: filepath.Join(cfg.StateDir, "queues"), OpenQueue: queues.get,
		Slugs: cfg.Slugs(), Log: store.Log, Resume: projections.New(store.Pool, store.Log, log).Resume, Logger: log,
	})
}

// RebuildQueues makes the deployments' queues what the log says they are.
func RebuildQueues(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger) error {
	queues := newQueueSet(cfg, log)
	defer queues.close()
	return newMirror(cfg, store, log, queues).Rebuild(ctx)
}

// ExpectedQueues lists what the log says that each deployment's queue should hold.
func ExpectedQueues(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger) (map[string][]mirror.Entry, error) {
	queues := newQueueSet(cfg, log)
	defer queues.close()
	return newMirror(cfg, store, log, queues).Expected(ctx)
}
