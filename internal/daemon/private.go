package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// Overlooked counts the events of the private cluster, where the database that is
// configured beside it has none: a database_url that was set later begins another
// log, and what was deployed until then is not in it. It is 0 where all is well.
func Overlooked(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger) (int64, error) {
	if cfg.DatabaseURL == "" {
		return 0, nil
	}
	if _, err := os.Stat(filepath.Join(PrivateCluster(cfg), "data", "PG_VERSION")); err != nil {
		return 0, nil // none, or one of another user, which this one could not have made
	}
	head, err := store.Log.Head(ctx)
	if err != nil || head > 0 {
		return 0, err
	}
	own := *cfg
	own.DatabaseURL = ""
	private, err := OpenStore(ctx, &own, log, false)
	if err != nil {
		return 0, fmt.Errorf("look into the private Postgres in %s: %w", PrivateCluster(cfg), err)
	}
	defer private.Close()
	return private.Log.Head(ctx)
}

// PrivateCluster is where the private cluster is, or would be.
func PrivateCluster(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "postgres") }
