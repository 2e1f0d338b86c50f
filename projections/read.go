package projections

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoDelivery says that the read models have no delivery of that ID.
var ErrNoDelivery = errors.New("no such delivery")

// read calls fn with rows of the version that serves reads. That may be an older
// one than this binary's while its own is being built: a column that it does not
// have yet is then empty. One snapshot has both the choice and the rows: the older
// version goes on after the switch, so rows that are read later could be newer than what
// the new version has at the next read.
func read[T Delivery | Attempt | deploymentRow](ctx context.Context, p *Projector, t table, rest string, fn func(T) error, args ...any) error {
	return readAs(ctx, p, func(from place) string { return fmt.Sprintf("select row_to_json(t) from %s t %s", t.in(from), rest) }, fn, args...)
}

// readAs is read of a query that is not of all columns of a table alone.
func readAs[T Delivery | Attempt | deploymentRow](ctx context.Context, p *Projector, query func(from place) string, fn func(T) error, args ...any) error {
	return pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		version, err := p.serving(ctx, tx)
		if err != nil || version == 0 {
			return err
		}
		return eachRow(ctx, tx, query(place{version: version}), fn, args...)
	})
}

// Deployments reads the deployments of an instance ("" for all), by slug. One
// that no event has named is not among them, but where it is one of also: a freeze of all
// holds that, too.
func (p *Projector) Deployments(ctx context.Context, instance string, also ...Key) ([]Deployment, error) {
	var list []Deployment
	err := read(ctx, p, deploymentsTable, "where $1 = '' or instance = $1 order by instance, slug", func(row deploymentRow) error {
		list = append(list, row.record().Deployment)
		return nil
	}, instance)
	if err != nil {
		return nil, fmt.Errorf("read deployments: %w", err)
	}
	return withoutAll(list, also), nil
}

// Freezes are the newest freeze of all deployments of an instance and that of one of
// them by itself, ended or not; nil where there never was one.
func (p *Projector) Freezes(ctx context.Context, instance, slug string) (all, one *Hold, err error) {
	err = read(ctx, p, deploymentsTable, "where instance = $1 and slug in ($2, $3)", func(row deploymentRow) error {
		if row.Slug == All {
			all = row.Frozen
		} else {
			one = row.Frozen
		}
		return nil
	}, instance, slug, All)
	if err != nil {
		return nil, nil, fmt.Errorf("read what is frozen: %w", err)
	}
	return all, one, nil
}

// Delivery reads one delivery; ErrNoDelivery where there is none.
func (p *Projector) Delivery(ctx context.Context, instance, id string) (Delivery, error) {
	var found *Delivery
	err := read(ctx, p, deliveriesTable, "where instance = $1 and delivery_id = $2", func(d Delivery) error {
		found = &d
		return nil
	}, instance, id)
	if err != nil {
		return Delivery{}, fmt.Errorf("read delivery %s: %w", id, err)
	}
	if found == nil {
		return Delivery{}, fmt.Errorf("read delivery %s: %w", id, ErrNoDelivery)
	}
	return *found, nil
}

// AttemptFilter chooses attempts; what is zero does not restrict.
type AttemptFilter struct {
	Instance   string
	DeliveryID string
	Deployment string
	Outcomes   []Outcome
	// Since and Until bound the time of the assignment (a breach has none, and
	// is found by neither): from Since, before Until.
	Since, Until time.Time
	// Before keeps those that come after this one in the order of Attempts; of the zero one all.
	Before Place
	// Limit keeps the newest ones.
	Limit int
}

// Place is where an attempt stands in the order of Attempts.
type Place struct {
	Position int64
	Attempt  int
}

func (p Place) String() string { return fmt.Sprintf("%d.%d", p.Position, p.Attempt) }

// ParsePlace reads what String gives.
func ParsePlace(text string) (Place, error) {
	position, attempt, _ := strings.Cut(text, ".")
	p, err := strconv.ParseInt(position, 10, 64)
	a, attemptErr := strconv.ParseInt(attempt, 10, 32)
	if errors.Join(err, attemptErr) != nil || p < 1 || a < 0 {
		return Place{}, fmt.Errorf("%q is no place of an attempt", text)
	}
	return Place{p, int(a)}, nil
}

// Attempts reads attempts, the newest assignment first; among the attempts of
// one assignment the newest first.
func (p *Projector) Attempts(ctx context.Context, f AttemptFilter) ([]Attempt, error) {
	var where []string
	var args []any
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if f.Instance != "" {
		add("instance = $%d", f.Instance)
	}
	if f.DeliveryID != "" {
		add("delivery_id = $%d", f.DeliveryID)
	}
	if f.Deployment != "" {
		add("deployment = $%d", f.Deployment)
	}
	if len(f.Outcomes) > 0 {
		outcomes := make([]string, len(f.Outcomes))
		for i, o := range f.Outcomes {
			outcomes[i] = string(o)
		}
		add("outcome = any($%d)", outcomes)
	}
	if !f.Since.IsZero() {
		add("assigned_at >= $%d", f.Since)
	}
	if !f.Until.IsZero() {
		add("assigned_at < $%d", f.Until)
	}
	if f.Before.Position > 0 {
		args = append(args, f.Before.Position, f.Before.Attempt)
		where = append(where, fmt.Sprintf("(assigned_position, attempt) < ($%d, $%d)", len(args)-1, len(args)))
	}
	q := ""
	if len(where) > 0 {
		q = "where " + strings.Join(where, " and ")
	}
	q += " order by assigned_position desc nulls last, attempt desc, instance, delivery_id, deployment"
	if f.Limit > 0 {
		args = append(args, f.Limit)
		q += fmt.Sprintf(" limit $%d", len(args))
	}
	var list []Attempt
	err := read(ctx, p, attemptsTable, q, func(a Attempt) error {
		list = append(list, a)
		return nil
	}, args...)
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	return list, nil
}

// Key names a deployment of an instance.
type Key struct{ Instance, Slug string }

// Runs reads the newest runs of each of the deployments, at most so many, the newest first.
func (p *Projector) Runs(ctx context.Context, of []Key, most int) (map[Key][]Attempt, error) {
	instances, slugs := make([]string, len(of)), make([]string, len(of))
	for i, k := range of {
		instances[i], slugs[i] = k.Instance, k.Slug
	}
	query := func(from place) string {
		return fmt.Sprintf(`select row_to_json(t) from unnest($1::text[], $2::text[]) as k (instance, slug), lateral (
			select * from %s a where a.instance = k.instance and a.deployment = k.slug and a.started_position is not null
			order by a.assigned_position desc nulls last, a.attempt desc limit $3) t`, attemptsTable.in(from))
	}
	runs := map[Key][]Attempt{}
	err := readAs(ctx, p, query, func(a Attempt) error {
		key := Key{a.Instance, a.Deployment}
		runs[key] = append(runs[key], a)
		return nil
	}, instances, slugs, most)
	if err != nil {
		return nil, fmt.Errorf("read the newest runs: %w", err)
	}
	return runs, nil
}
