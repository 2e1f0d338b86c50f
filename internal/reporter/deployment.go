package reporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
)

// made is one of GitHub's deployments that was made.
type made struct {
	key, repository string
	id              int64
	live            time.Time // when it was deployed, or zero
}

// deployment says the state of a run as that of a deployment of GitHub's, which is made
// where there is none. A success sets the one that was live before inactive.
func (r *Reporter) deployment(ctx context.Context, i outbox.Item, b body) error {
	busy := r.slugs[b.Slug]
	if busy == nil || !busy.TryLock() { // two at once would both set what was before inactive
		return outbox.ErrTurn
	}
	defer busy.Unlock()
	d, err := r.find(ctx, i.Key, b)
	if err != nil {
		return err
	}
	s := github.DeploymentStatus{State: b.Status.State, Description: b.Status.Description, LogURL: b.Status.TargetURL, EnvironmentURL: b.URL}
	if s.State == github.StatePending {
		s.State = github.StateInProgress
	}
	if !d.live.Equal(i.At) { // else it was said, and what follows was not
		if err := r.o.GitHub.CreateDeploymentStatus(ctx, b.Repository, d.id, s); err != nil {
			return err
		}
	}
	switch s.State {
	case github.StateInProgress:
		return nil
	case github.StateSuccess:
		const q = `update public.reporter_deployments set live_at = $3 where instance = $1 and key = $2`
		if _, err := r.o.Pool.Exec(ctx, q, r.o.Instance, i.Key, i.At); err != nil {
			return fmt.Errorf("note a deployment of GitHub's: %w", err)
		}
		return r.retire(ctx, b.Slug)
	}
	return r.forget(ctx, i.Key)
}

// find is the deployment of a run. One that was made before it could be noted is known
// by its description.
func (r *Reporter) find(ctx context.Context, key string, b body) (made, error) {
	d := made{key: key, repository: b.Repository}
	const known = `select github_id, coalesce(live_at, to_timestamp(0)) from public.reporter_deployments where instance = $1 and key = $2`
	err := r.o.Pool.QueryRow(ctx, known, r.o.Instance, key).Scan(&d.id, &d.live)
	if err == nil {
		return d, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return d, fmt.Errorf("look for a deployment of GitHub's: %w", err)
	}
	there, err := r.o.GitHub.Deployments(ctx, b.Repository, b.Slug, b.Commit)
	if err != nil {
		if e, ok := errors.AsType[*github.Error](err); ok {
			e.ToWrite() // what is needed as a whole, and not for the list alone
		}
		return d, err
	}
	description := describe(r.o.Instance + ": " + b.Run) // the instance and the event make it unique
	for _, one := range there {
		if one.Description == description {
			d.id = one.ID
		}
	}
	if d.id == 0 {
		one, err := r.o.GitHub.CreateDeployment(ctx, b.Repository, b.Commit, b.Slug, description)
		if err != nil {
			return d, err
		}
		d.id = one.ID
	}
	const note = `insert into public.reporter_deployments (instance, key, slug, repository, github_id) values ($1, $2, $3, $4, $5)`
	if _, err := r.o.Pool.Exec(ctx, note, r.o.Instance, key, b.Slug, b.Repository, d.id); err != nil {
		return d, fmt.Errorf("note a deployment of GitHub's: %w", err)
	}
	return d, nil
}

// retire sets all that are live at a slug inactive, but the newest.
func (r *Reporter) retire(ctx context.Context, slug string) error {
	const q = `select key, repository, github_id, live_at from public.reporter_deployments
		where instance = $1 and slug = $2 and live_at is not null order by live_at desc offset 1`
	rows, err := r.o.Pool.Query(ctx, q, r.o.Instance, slug)
	if err != nil {
		return fmt.Errorf("look for what was live: %w", err)
	}
	older, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d made, err error) {
		return d, row.Scan(&d.key, &d.repository, &d.id, &d.live)
	})
	if err != nil {
		return fmt.Errorf("look for what was live: %w", err)
	}
	for _, d := range older {
		err := r.o.GitHub.CreateDeploymentStatus(ctx, d.repository, d.id, github.DeploymentStatus{State: github.StateInactive})
		if e, ok := errors.AsType[*github.Error](err); err != nil && (!ok || e.Temporary) {
			return err
		} // what is refused is gone at GitHub's
		if err := r.forget(ctx, d.key); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reporter) forget(ctx context.Context, key string) error {
	const q = `delete from public.reporter_deployments where instance = $1 and key = $2`
	if _, err := r.o.Pool.Exec(ctx, q, r.o.Instance, key); err != nil {
		return fmt.Errorf("forget a deployment of GitHub's: %w", err)
	}
	return nil
}
