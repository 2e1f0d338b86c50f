package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// retainEvery is how often old run logs are looked for.
const retainEvery = time.Hour

// retain removes the files of old runs, and what is owed to no one any more, now and
// then, until ctx ends.
func retain(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger) error {
	for {
		err := errors.Join(removeOldRuns(ctx, cfg, store, log, time.Now()), outbox.Forget(ctx, store.Pool, cfg.Instance, channels(cfg)))
		if err != nil {
			return err
		}
		if !retry.Sleep(ctx, retainEvery) {
			return nil
		}
	}
}

// removeOldRuns removes what is older than [retention] run_logs, but for the last run of
// each deployment and the one that put live what is.
func removeOldRuns(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger, now time.Time) error {
	if cfg.Retention.RunLogs == 0 {
		return nil
	}
	root, err := os.OpenRoot(runsDir(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for old run logs: %w", err)
	}
	defer root.Close()
	before := now.Add(-cfg.Retention.RunLogs)
	old, err := fs.Glob(root.FS(), "*/*.log")
	if err != nil {
		return fmt.Errorf("look for old run logs: %w", err)
	}
	removed := 0
	kept := map[string]map[string]bool{} // by deployment; asked for only where there is something old
	for _, name := range old {
		info, err := root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || !info.ModTime().Before(before) {
			continue
		}
		slug := filepath.Dir(name)
		if kept[slug] == nil {
			if kept[slug], err = runsToKeep(ctx, cfg, store, slug); err != nil {
				return err
			}
		}
		if kept[slug][filepath.Base(name)] {
			continue
		}
		if err := root.Remove(name); err != nil {
			log.Warn("an old run log cannot be removed", "run_log", filepath.Join(root.Name(), name), "error", err)
			continue
		}
		for _, beside := range []string{".result.json", ".process"} { // of a run that others have ended
			_ = root.Remove(strings.TrimSuffix(name, ".log") + beside)
		}
		removed++
	}
	if removed > 0 {
		log.Info("removed old run logs", "count", removed, "older_than", cfg.Retention.RunLogs.String())
	}
	return nil
}

// runsToKeep are the names of the run logs of a deployment that stay, however old.
func runsToKeep(ctx context.Context, cfg *config.Config, store *Store, slug string) (map[string]bool, error) {
	keep := map[string]bool{}
	for _, last := range []eventlog.Type{eventlog.TypeStarted, eventlog.TypeDeployed} {
		filter := eventlog.Filter{Instance: cfg.Instance, Deployment: slug, Types: []eventlog.Type{last}, Newest: true, Limit: 1}
		for e, err := range store.Log.Find(ctx, filter) {
			if err != nil {
				return nil, fmt.Errorf("look for the last run of %s: %w", slug, err)
			}
			keep[handlers.RunLogName(e.DeliveryID, e.Attempt)] = true
		}
	}
	return keep, nil
}

func runsDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "runs") }
