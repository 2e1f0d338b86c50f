package daemon

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/dashboard"
	"github.com/ducompsoc/durhack-deployer/internal/git"
)

// Answers is what is told of a store and of this host.
func Answers(cfg *config.Config, store *Store) answer.Source {
	return answer.Source{
		Config: cfg, Pool: store.Pool, Log: store.Log,
		Obstacle: func(ctx context.Context, slug string) string { return Obstacle(ctx, cfg, slug) },
		Tree:     func(d *config.Deployment) answer.Tree { return Tree(cfg, d) },
	}
}

// pages are what [admin] serves beside its checks. Each part has its own paths here.
func (c *condition) pages(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", newMetrics(o, c))
	mux.Handle("/", dashboard.New(dashboard.Options{
		Config: o.Config, Version: o.Version, Log: o.Logger,
		Source: func() (answer.Source, error) {
			phase, why, store, _ := c.now()
			if store == nil {
				return answer.Source{}, errors.New(strings.TrimSuffix(phase+": "+why, ": "))
			}
			return Answers(o.Config, store), nil
		},
		Changes: func(ctx context.Context, d *config.Deployment, from, to string) (git.Changes, error) {
			return Tree(o.Config, d).Changes(ctx, from, to, dashboard.MaxChanges)
		},
	}))
	return mux
}
