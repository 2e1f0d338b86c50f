// Package answer owns what is told of the log and of the deployments to people and
// to programs: the rows that commands print as JSON, that the API gives, and that
// the dashboard shows. It only reads.
package answer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Source is what answers are read from.
type Source struct {
	Config *config.Config
	Pool   *pgxpool.Pool
	Log    *eventlog.Log
	// Obstacle says why what waits for a deployment does not begin, or with an empty
	// slug, why nothing does; "" where nothing is known that keeps it from its turn.
	Obstacle func(ctx context.Context, slug string) string
	// Tree is the working tree of a deployment.
	Tree func(d *config.Deployment) Tree
}

// Kind is why there is no answer.
type Kind int

// The kinds of an Error.
const (
	// Wrong is a question that nobody can answer.
	Wrong Kind = iota
	UnknownDeployment
	UnknownDelivery
	// Ambiguous is an abbreviation that may mean several.
	Ambiguous
)

// Error says why there is no answer, and what to do next.
type Error struct {
	Kind Kind
	// Hint is what to do next; empty where the error says it.
	Hint string
	// Candidates are what an abbreviation may mean.
	Candidates []string
	// Unrouted is the entry of the main queue that has a delivery which the log does not.
	Unrouted *QueueRow
	err      error
}

func (e *Error) Error() string { return e.err.Error() }
func (e *Error) Unwrap() error { return e.err }

// IsUnknownDelivery says whether the log has no such delivery.
func IsUnknownDelivery(err error) (*Error, bool) {
	e, ok := errors.AsType[*Error](err)
	return e, ok && e.Kind == UnknownDelivery
}

// Deployment finds a slug, or names those that there are.
func Deployment(cfg *config.Config, slug string) (*config.Deployment, error) {
	if d, ok := cfg.Deployments[slug]; ok {
		return d, nil
	}
	if len(cfg.Deployments) == 0 {
		return nil, &Error{Kind: UnknownDeployment, err: fmt.Errorf("unknown deployment %q: the configuration has none", slug)}
	}
	return nil, &Error{Kind: UnknownDeployment, err: fmt.Errorf("unknown deployment %q; one of: %s", slug, strings.Join(cfg.Slugs(), ", "))}
}

// Keys are those of the deployments that are configured.
func Keys(cfg *config.Config) (keys []projections.Key) {
	for _, slug := range cfg.Slugs() {
		keys = append(keys, projections.Key{Instance: cfg.Instance, Slug: slug})
	}
	return keys
}

// Deployments reads the read model, or folds the log up to a moment.
func (s Source) Deployments(ctx context.Context, at Moment) (map[string]projections.Deployment, error) {
	var list []projections.Deployment
	if at.Set {
		state, err := at.fold(ctx, s.Log, s.Config.Instance)
		if err != nil {
			return nil, err
		}
		list = state.Deployments(s.Config.Instance, Keys(s.Config)...)
	} else {
		models, err := s.Models(ctx)
		if err != nil {
			return nil, err
		}
		if list, err = models.Deployments(ctx, s.Config.Instance, Keys(s.Config)...); err != nil {
			return nil, fmt.Errorf("read the state of the deployments: %w", err)
		}
	}
	bySlug := make(map[string]projections.Deployment, len(list))
	for _, d := range list {
		bySlug[d.Slug] = d
	}
	return bySlug, nil
}

// Models are the read models. The daemon gets a moment to bring them up to the log,
// so that a question right after a deploy finds it.
func (s Source) Models(ctx context.Context) (*projections.Projector, error) {
	p := projections.New(s.Pool, s.Log, slog.New(slog.DiscardHandler))
	_, err := p.Await(ctx, time.Second) // who asks is told how far behind it still is
	return p, err
}

// collect reads all of what a question to the log finds.
func collect(found iter.Seq2[eventlog.Event, error]) ([]eventlog.Event, error) {
	var events []eventlog.Event
	for e, err := range found {
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}
