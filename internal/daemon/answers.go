package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/api"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/dashboard"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// Answers is what is told of a store and of this host.
func Answers(cfg *config.Config, store *Store) answer.Source {
	return answer.Source{
		Config: cfg, Pool: store.Pool, Log: store.Log,
		Obstacle: func(ctx context.Context, slug string) string { return Obstacle(ctx, cfg, slug) },
		Tree:     func(d *config.Deployment) answer.Tree { return Tree(cfg, d) },
	}
}

// Pages read with connections that nothing else uses, few and only to read, so that no
// question, however many ask it, keeps a deploy from the log.
const (
	readers       = 2
	readersIdle   = 30 * time.Second
	readersWithin = "10s" // of a statement
	// reasonsFor is how long the reasons of a worker that does not work are remembered.
	reasonsFor = time.Second
)

// readBy opens the store once more, for pages.
func (s *Store) readBy(ctx context.Context, log *slog.Logger) (*Store, error) {
	pool := s.Pool.Config()
	pool.MinConns, pool.MaxConns, pool.MaxConnIdleTime = 0, readers, readersIdle
	pool.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.SetRole(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "set default_transaction_read_only = on; set statement_timeout = '"+readersWithin+"'")
		return err
	}
	r := &Store{dsn: s.dsn}
	var err error
	if r.Pool, err = pgxpool.NewWithConfig(ctx, pool); err != nil {
		return nil, fmt.Errorf("open the pool of pages: %w", err)
	}
	r.Log = eventlog.Open(r.Pool, log, eventlog.OneConnection())
	return r, nil
}

// source is where the pages of this daemon read from.
func (c *condition) source(cfg *config.Config) (answer.Source, error) {
	c.mu.Lock()
	reading, phase, why := c.reading, c.phase, c.why
	c.mu.Unlock()
	if reading == nil {
		return answer.Source{}, away(phase, why)
	}
	s := Answers(cfg, reading)
	s.Obstacle = func(ctx context.Context, slug string) string { return c.obstacle(ctx, cfg, slug) }
	return s, nil
}

// away says why there is no store now.
func away(phase, why string) error { return errors.New(strings.TrimSuffix(phase+": "+why, ": ")) }

// obstacle is Obstacle, asked of this process itself.
func (c *condition) obstacle(ctx context.Context, cfg *config.Config, slug string) string {
	c.mu.Lock()
	locker := c.locker
	c.mu.Unlock()
	return obstacle(ctx, cfg, slug, locker, func() []string {
		c.mu.Lock()
		at, said := c.asked.at, c.asked.said
		c.mu.Unlock()
		if time.Since(at) < reasonsFor {
			return said // what is asked of one deployment after another
		}
		at, said = time.Now(), nil
		for _, check := range c.checks(cfg) {
			_, more := check.Run(ctx)
			said = append(said, more...)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked.at, c.asked.said = at, said
		return said
	})
}

// pages are what [admin] serves beside its checks. Each part has its own paths here.
func (c *condition) pages(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", newMetrics(o, c))
	source := func() (answer.Source, error) { return c.source(o.Config) }
	mux.Handle(api.Prefix, api.New(api.Options{Source: source, Feed: c.feed, Log: o.Logger}))
	var pages *dashboard.Handler
	desk := dashboard.NewDesk(dashboard.DeskOptions{
		Config: o.Config, Log: o.Logger,
		Logins: func() (dashboard.Logins, error) { return c.logins(o.Config) },
		Person: func(name string) (*act.Person, error) { return c.person(o, name) },
		Tell: func(w http.ResponseWriter, r *http.Request, code int, template, title string, data any) {
			pages.Tell(w, r, code, template, title, data)
		},
	})
	pages = dashboard.New(dashboard.Options{
		Config: o.Config, Version: o.Version, Log: o.Logger, Source: source, Actor: desk.Actor, Actions: desk.Actions,
		Changes: func(ctx context.Context, d *config.Deployment, from, to string) (git.Changes, error) {
			return Tree(o.Config, d).Changes(ctx, from, to, dashboard.MaxChanges)
		},
		Authored: func(ctx context.Context, d *config.Deployment, commits []string) (map[string]git.Authored, error) {
			return Tree(o.Config, d).Authored(ctx, commits)
		},
	})
	mux.Handle("/", desk.Around(pages))
	return mux
}
