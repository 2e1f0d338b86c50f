package daemon

import (
	"context"
	"net/http"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
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
	return mux
}
