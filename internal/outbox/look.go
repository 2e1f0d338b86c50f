package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Backlog says how far a channel is. The JSON names are those of `status --verbose`.
type Backlog struct {
	Channel string `json:"channel"`
	// Behind counts the events that were not read yet.
	Behind int64 `json:"behind"`
	// Owed counts what is to be sent by now, and Oldest is when the oldest of it was recorded.
	Owed   int        `json:"owed"`
	Oldest *time.Time `json:"oldest,omitempty"`
	// Refused and GivenUp count what will not be sent.
	Refused int `json:"refused"`
	GivenUp int `json:"given_up"`
}

// Backlogs lists the channels that an instance ever had, by name.
func Backlogs(ctx context.Context, pool *pgxpool.Pool, instance string) ([]Backlog, error) {
	const q = `select p.channel, greatest(0, h.position - p.position), count(*) filter (where due), min(o.at) filter (where due),
			count(*) filter (where o.state = 'refused'), count(*) filter (where o.state = 'given_up')
		from public.outbox_positions p cross join public.log_head h left join public.outbox o using (channel, instance)
		cross join lateral (select o.state = 'owed' and (o.tries > 0 or o.next_at <= clock_timestamp()) as due) d
		where p.instance = $1 group by p.channel, p.position, h.position order by p.channel`
	return collect[Backlog](ctx, pool, q, instance)
}

// Trouble is a failure that something owed has had, or ended with.
type Trouble struct {
	Channel string `json:"channel"`
	Scope   string `json:"scope"`
	// State is "owed" where it is tried again, "refused" or "given_up".
	State string    `json:"state"`
	Error string    `json:"error"`
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// Troubles lists the failures of an instance's channels, each kind once, the newest first.
func Troubles(ctx context.Context, pool *pgxpool.Pool, instance string) ([]Trouble, error) {
	const q = `select channel, scope, state, error, count(*), max(failed_at) from public.outbox
		where instance = $1 and failed_at is not null group by channel, scope, state, error order by max(failed_at) desc`
	return collect[Trouble](ctx, pool, q, instance)
}

// Items lists what a channel owes, now or later, under keys that begin so.
func Items(ctx context.Context, pool *pgxpool.Pool, channel, instance, prefix string) ([]Item, error) {
	const q = `select key, scope, position, at, next_at, body from public.outbox
		where channel = $1 and instance = $2 and state = 'owed' and starts_with(key, $3) order by key`
	return collect[Item](ctx, pool, q, channel, instance, prefix)
}

// Forget removes what an instance's channels owe that are not among these, and that no
// process has: the configuration does not ask for them any more. One that is asked for
// again later begins at the head of the log.
func Forget(ctx context.Context, pool *pgxpool.Pool, instance string, channels []string) error {
	const q = `with gone as (delete from public.outbox_positions
			where instance = $1 and channel <> all ($2) and held_until < clock_timestamp() returning channel)
		delete from public.outbox where instance = $1 and channel in (select channel from gone)`
	if _, err := pool.Exec(ctx, q, instance, channels); err != nil {
		return fmt.Errorf("forget the outboxes that are not configured: %w", err)
	}
	return nil
}

func collect[T any](ctx context.Context, pool *pgxpool.Pool, q string, args ...any) ([]T, error) {
	rows, err := pool.Query(ctx, q, args...)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return list, nil
}
