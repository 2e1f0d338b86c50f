// Package outbox keeps what a follower of the log owes to the outside: it reads the
// log, puts what is to be said into the database together with its position, and
// says it, as often as it takes. The log never waits for any of it.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

const (
	// Lasts is how long something is tried before it is given up. It counts from the
	// event, so that what is older is not said at all: after a month without the
	// follower, or in a copy of the database.
	Lasts = 24 * time.Hour
	// kept is how long what was refused or given up is shown.
	kept = 7 * 24 * time.Hour
	// lease is how long a process that was killed keeps others of its instance out.
	lease = 30 * time.Second
)

// Item is one thing to be said.
type Item struct {
	// Key is what it is about. Items of a key are sent one at a time, in the order of
	// their positions, and of several that wait only the newest.
	Key string
	// Scope is what a refusal is about, for people: a repository, a service.
	Scope string
	// Position is that of the event that it tells of, and At when that was recorded.
	Position int64
	At       time.Time
	// NotBefore is when it may be sent; zero is at once.
	NotBefore time.Time
	Body      json.RawMessage
}

// Options configure an Outbox. All but the last four are required.
type Options struct {
	// Channel names the follower, in the tables and to people.
	Channel  string
	Instance string
	// Holder names what may take over from itself at once: no two processes that run
	// at the same time have the same one.
	Holder string
	Pool   *pgxpool.Pool
	Log    *eventlog.Log
	// Owe says what events of the instance give. It changes nothing: the same events may
	// come again. An error is tried again.
	Owe func(ctx context.Context, events []eventlog.Event) ([]Item, error)
	// Send says it to the outside, at least once. An error is tried again with growing
	// pauses, if it is not Refused; After says when.
	Send   func(ctx context.Context, item Item) error
	Logger *slog.Logger
	// Parallel bounds how many are sent at once (8), Timeout how long each may take (30 s),
	// Pause is how long the first pause after a failure is (1 s), and Probe that after a
	// refusal (5 min).
	Parallel int
	Timeout  time.Duration
	Pause    time.Duration
	Probe    time.Duration
}

// Outbox is one follower. Create it with New.
type Outbox struct {
	o      Options
	log    *slog.Logger
	outage *retry.Outage
	// wake tells the sender that there is something new.
	wake chan struct{}
	told told
}

// New returns an Outbox that has not started.
func New(o Options) *Outbox {
	if o.Parallel == 0 {
		o.Parallel = 8
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Pause == 0 {
		o.Pause = time.Second
	}
	if o.Probe == 0 {
		o.Probe = 5 * time.Minute
	}
	log := o.Logger.With("channel", o.Channel)
	return &Outbox{
		o: o, log: log, wake: make(chan struct{}, 1),
		outage: retry.New(log, slog.LevelWarn, "an outbox waits for the database"),
	}
}

// errLost says that another process has the outbox, or has moved its position.
var errLost = errors.New("another process of this instance has the outbox")

// Run follows and sends until ctx ends (nil), or an event comes that this binary does
// not know, or a hole. It waits while another process of the instance has the outbox.
func (b *Outbox) Run(ctx context.Context) error {
	for {
		err := b.turn(ctx)
		var hole *eventlog.HoleError
		var unknown *eventlog.UnknownEventError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &hole), errors.As(err, &unknown), errors.Is(err, eventlog.ErrClosed):
			return fmt.Errorf("outbox %s: %w", b.o.Channel, err)
		case errors.Is(err, errLost):
			b.log.Debug("an outbox is held by another process", "error", err)
			retry.Sleep(ctx, lease/3)
		default:
			retry.Sleep(ctx, b.outage.Failed(err))
		}
	}
}

// turn has the outbox until something fails; it always returns an error.
func (b *Outbox) turn(ctx context.Context) error {
	position, err := b.take(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	ended := make(chan error, 3)
	for _, part := range []func(context.Context) error{
		func(ctx context.Context) error { return b.follow(ctx, position) }, b.deliver, b.hold,
	} {
		parts.Go(func() { ended <- part(ctx) })
	}
	err = <-ended
	stop()
	parts.Wait()
	if release := b.release(context.WithoutCancel(ctx)); release != nil {
		b.log.Debug("an outbox is kept until its time is over", "error", release)
	}
	return err
}

// take takes the outbox, for a while, and returns its position: the first time that is
// the head of the log, so that nothing old is said. A position past the head is that of a
// log that is not there any more, and so is what is owed from there.
func (b *Outbox) take(ctx context.Context) (position int64, err error) {
	err = pgx.BeginFunc(ctx, b.o.Pool, func(tx pgx.Tx) error {
		const take = `insert into public.outbox_positions as p (channel, instance, position, holder, held_until)
			select $1, $2, h.position, $3, clock_timestamp() + $4 from public.log_head h
			on conflict (channel, instance) do update
			set position = least(p.position, excluded.position), holder = excluded.holder, held_until = excluded.held_until
			where p.holder = excluded.holder or p.held_until < clock_timestamp()
			returning position`
		if err := tx.QueryRow(ctx, take, b.o.Channel, b.o.Instance, b.o.Holder, lease).Scan(&position); err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				return errLost
			}
			return err
		}
		const q = `delete from public.outbox where channel = $1 and instance = $2 and position > $3`
		_, err := tx.Exec(ctx, q, b.o.Channel, b.o.Instance, position)
		return err
	})
	if err == nil {
		err = b.prune(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("take the outbox %s: %w", b.o.Channel, err)
	}
	return position, nil
}

// hold keeps the outbox, and forgets old refusals now and then.
func (b *Outbox) hold(ctx context.Context) error {
	const perHour = int(time.Hour / (lease / 3))
	for n := 1; retry.Sleep(ctx, lease/3); n++ {
		if err := b.until(ctx, lease); err != nil {
			return err
		}
		if n%perHour == 0 {
			if err := b.prune(ctx); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (b *Outbox) release(ctx context.Context) error { return b.until(ctx, 0) }

// until says for how long the outbox is had from now on. A server that is silent for
// longer than it is had must not go unnoticed.
func (b *Outbox) until(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, lease/3)
	defer cancel()
	const q = `update public.outbox_positions set held_until = clock_timestamp() + $4 where channel = $1 and instance = $2 and holder = $3`
	tag, err := b.o.Pool.Exec(ctx, q, b.o.Channel, b.o.Instance, b.o.Holder, d)
	if err == nil && tag.RowsAffected() == 0 {
		err = errLost
	}
	if err != nil {
		return fmt.Errorf("keep the outbox %s: %w", b.o.Channel, err)
	}
	return nil
}

func (b *Outbox) prune(ctx context.Context) error {
	const q = `delete from public.outbox where channel = $1 and instance = $2 and state <> 'owed' and failed_at < clock_timestamp() - $3::interval`
	_, err := b.o.Pool.Exec(ctx, q, b.o.Channel, b.o.Instance, kept)
	return err
}

// follow puts what the log gives into the outbox; it always returns an error.
func (b *Outbox) follow(ctx context.Context, position int64) error {
	return b.o.Log.Follow(ctx, position, func(ctx context.Context, events []eventlog.Event) error {
		last := events[len(events)-1].Position
		ours := b.ours(events)
		var items []Item
		if len(ours) > 0 {
			var err error
			if items, err = b.o.Owe(ctx, ours); err != nil {
				return fmt.Errorf("say what is owed for the events after position %d: %w", position, err)
			}
		}
		if err := b.put(ctx, position, last, items); err != nil {
			return fmt.Errorf("put into the outbox what the events after position %d give: %w", position, err)
		}
		position = last
		b.outage.Over()
		if len(items) > 0 {
			b.nudge()
		}
		return nil
	})
}

// ours are the events of the instance that are not too old to be told of.
func (b *Outbox) ours(events []eventlog.Event) []eventlog.Event {
	return slices.DeleteFunc(slices.Clone(events), func(e eventlog.Event) bool {
		return e.Instance != b.o.Instance || time.Since(e.RecordedAt) > Lasts
	})
}

func (b *Outbox) nudge() {
	select {
	case b.wake <- struct{}{}:
	default: // it will look
	}
}

// put moves the position, and adds what is owed, in one transaction.
func (b *Outbox) put(ctx context.Context, from, to int64, items []Item) error {
	return pgx.BeginFunc(ctx, b.o.Pool, func(tx pgx.Tx) error {
		if len(items) == 0 {
			// A crash takes the position back, and the events come again. What is owed has
			// to be on disk before it is sent: else an older item could follow a newer one.
			if _, err := tx.Exec(ctx, "set local synchronous_commit = off"); err != nil {
				return err
			}
		}
		const move = `update public.outbox_positions set position = $5 where channel = $1 and instance = $2 and holder = $3 and position = $4`
		tag, err := tx.Exec(ctx, move, b.o.Channel, b.o.Instance, b.o.Holder, from, to)
		if err == nil && tag.RowsAffected() == 0 {
			err = errLost
		}
		if err != nil {
			return err
		}
		const owe = `insert into public.outbox as o (channel, instance, key, scope, position, at, body, next_at)
			values ($1, $2, $3, $4, $5, $6, $7, coalesce($8, clock_timestamp()))
			on conflict (channel, instance, key) do update
			set scope = excluded.scope, position = excluded.position, at = excluded.at, body = excluded.body,
				next_at = excluded.next_at, tries = 0, state = 'owed', error = '', failed_at = null
			where o.position <= excluded.position`
		var batch pgx.Batch
		for _, i := range items {
			var notBefore *time.Time
			if !i.NotBefore.IsZero() {
				notBefore = &i.NotBefore
			}
			batch.Queue(owe, b.o.Channel, b.o.Instance, i.Key, i.Scope, i.Position, i.At, string(i.Body), notBefore)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
}
