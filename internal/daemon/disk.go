package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/verify"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// VerifyProjections holds the read models against a fresh fold of the log, and the
// directories of the configured deployments against them.
func VerifyProjections(ctx context.Context, cfg *config.Config, store *Store, log *slog.Logger, progress func(done, total int64)) (projections.Audit, verify.Disk, error) {
	p := projections.New(store.Pool, store.Log, log)
	audit, err := p.Audit(ctx, progress)
	if err == nil && audit.NotBuilt != nil {
		err = fmt.Errorf("verify projections: %w", audit.NotBuilt)
	}
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
