package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

const (
	// chunks are in flight at most, so that fold and write overlap in bounded memory.
	chunks = 2
	// chunkBytes is when rows go to the database.
	chunkBytes = 1 << 20
	// maxOpen bounds the deliveries kept in memory because they have not ended.
	maxOpen = 20_000
	// keepEnded deliveries stay in memory after they ended: one that is
	// redelivered mostly is so soon, and need not be found in the tables then.
	keepEnded = 4096
)

// builder folds the log into the fresh tables of a transaction. It keeps in
// memory only the deliveries that have not ended, or ended lately; a later event
// of one that was written brings it back from the tables.
type builder struct {
	tx    pgx.Tx
	fresh place
	state *State
	// indexed says that the fresh tables have their keys. They get them at the
	// end, or before the first row that must be found again.
	indexed bool
	// strange says that a delivery was written before its received.
	strange bool
	// ended are those that wait to be written, the oldest first.
	ended  []*record
	out    *chunk
	writer *writer
}

// chunk is rows on their way to the fresh tables.
type chunk struct {
	deliveries, attempts rows
	// changed rows are in the tables already.
	changedDeliveries []*Delivery
	changedAttempts   []*Attempt
	// done, where set, is closed once everything so far is written.
	done chan struct{}
}

// add puts a delivery with its attempts into the chunk.
func (c *chunk) add(r *record) {
	switch {
	case !r.stored:
		c.deliveries.delivery(&r.Delivery)
	case r.unwritten:
		c.changedDeliveries = append(c.changedDeliveries, &r.Delivery)
	}
	for _, a := range r.attempts {
		switch {
		case !a.stored:
			c.attempts.attempt(&a.Attempt)
		case a.dirty:
			c.changedAttempts = append(c.changedAttempts, &a.Attempt)
		}
	}
}

func (c *chunk) size() int {
	return len(c.deliveries.b) + len(c.attempts.b) + 512*(len(c.changedDeliveries)+len(c.changedAttempts))
}

func (c *chunk) reset() {
	c.deliveries.reset()
	c.attempts.reset()
	c.changedDeliveries, c.changedAttempts, c.done = nil, nil, nil
}

// writer is the goroutine that writes chunks; it owns the transaction except
// while it is idle after a chunk with done.
type writer struct {
	full, empty chan *chunk
}

func newBuilder(tx pgx.Tx, fresh place) *builder {
	return &builder{tx: tx, fresh: fresh, state: NewState(), out: &chunk{}}
}

// errBound ends a scan at a position.
var errBound = errors.New("bound reached")

// everything, as a bound, is all that is committed.
const everything = math.MaxInt64

// build folds the log from where the builder stands up to the position until,
// or as far as it goes. The transaction is idle when it returns.
func (b *builder) build(ctx context.Context, log *eventlog.Log, until int64, progress func(done int64)) error {
	if b.state.position >= until {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	b.writer = &writer{full: make(chan *chunk, chunks), empty: make(chan *chunk, chunks+1)}
	for range chunks {
		b.writer.empty <- &chunk{}
	}
	group.Go(func() error { return b.writer.run(ctx, b.tx, b.fresh) })
	group.Go(func() error {
		defer close(b.writer.full)
		err := log.Scan(ctx, b.state.position, func(events []eventlog.Event) error {
			events = events[:min(int64(len(events)), until-b.state.position)]
			if err := b.fold(ctx, events); err != nil {
				return err
			}
			if progress != nil {
				progress(b.state.position)
			}
			if b.state.position == until {
				return errBound
			}
			return nil
		})
		if errors.Is(err, errBound) {
			return nil
		}
		return err
	})
	return group.Wait()
}

// fold applies the events and writes deliveries that ended a while ago.
func (b *builder) fold(ctx context.Context, events []eventlog.Event) error {
	if keys := missing(b.state, events, !b.strange); len(keys) > 0 && b.state.position > 0 {
		if err := b.find(ctx, keys); err != nil {
			return err
		}
	}
	for i := range events {
		if err := b.state.Apply(&events[i]); err != nil {
			return err
		}
	}
	for _, r := range b.state.touched {
		r.dirty, r.unwritten = false, true
		if r.ended() && !r.queued {
			r.queued = true
			b.ended = append(b.ended, r)
		}
	}
	b.state.touched = b.state.touched[:0]
	for len(b.ended) > keepEnded {
		r := b.ended[0]
		b.ended = b.ended[1:]
		r.queued = false
		if !r.ended() {
			continue // it began again, and comes back at its end
		}
		if err := b.write(ctx, r); err != nil {
			return err
		}
	}
	if len(b.state.deliveries) > maxOpen {
		return b.writeAll(ctx)
	}
	return nil
}

// find brings deliveries back from the fresh tables, where they are there.
func (b *builder) find(ctx context.Context, keys []deliveryKey) error {
	if err := b.idle(ctx); err != nil {
		return err
	}
	if err := b.index(ctx); err != nil {
		return err
	}
	return loadDeliveries(ctx, b.tx, b.fresh, b.state, keys)
}

// index gives the fresh tables their keys. The writer must be idle.
func (b *builder) index(ctx context.Context) error {
	if b.indexed {
		return nil
	}
	if err := indexFresh(ctx, b.tx, b.fresh); err != nil {
		return err
	}
	b.indexed = true
	return nil
}

// drop forgets a delivery that is on its way to the tables.
func (b *builder) drop(r *record) {
	if r.ReceivedPosition == 0 {
		b.strange = true
	}
	delete(b.state.deliveries, deliveryKey{r.Instance, r.ID})
	if b.state.last == r {
		b.state.last = nil
	}
}

// write puts a delivery with its attempts on its way to the tables, and drops it.
func (b *builder) write(ctx context.Context, r *record) error {
	b.out.add(r)
	b.drop(r)
	if b.out.size() >= chunkBytes {
		return b.send(ctx)
	}
	return nil
}

// writeAll writes every delivery that is in memory.
func (b *builder) writeAll(ctx context.Context) error {
	b.ended = nil
	for _, r := range b.state.deliveries {
		if err := b.write(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) send(ctx context.Context) error {
	select {
	case b.writer.full <- b.out:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case b.out = <-b.writer.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle sends what there is and waits until the writer has written it.
func (b *builder) idle(ctx context.Context) error {
	done := make(chan struct{})
	b.out.done = done
	if err := b.send(ctx); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) run(ctx context.Context, tx pgx.Tx, fresh place) error {
	for {
		select {
		case c, ok := <-w.full:
			if !ok {
				return nil
			}
			if err := c.flush(ctx, tx, fresh); err != nil {
				return err
			}
			done := c.done
			c.reset()
			w.empty <- c // never blocks: there are as many places as chunks
			if done != nil {
				close(done)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *chunk) flush(ctx context.Context, tx pgx.Tx, fresh place) error {
	if err := copyRows(ctx, tx, deliveriesTable, fresh, &c.deliveries); err != nil {
		return err
	}
	if err := copyRows(ctx, tx, attemptsTable, fresh, &c.attempts); err != nil {
		return err
	}
	if err := upsertRows(ctx, tx, deliveriesTable, fresh, c.changedDeliveries); err != nil {
		return err
	}
	return upsertRows(ctx, tx, attemptsTable, fresh, c.changedAttempts)
}

func upsertRows[T any](ctx context.Context, tx pgx.Tx, t table, p place, list []T) error {
	if len(list) == 0 {
		return nil
	}
	b, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode rows: %w", err)
	}
	if _, err := tx.Exec(ctx, t.upsert(p), string(b)); err != nil {
		return fmt.Errorf("write %d rows into %s: %w", len(list), t.in(p), err)
	}
	return nil
}

// finish writes all that is still in memory, so that the fresh tables are the
// fold, and drops what has ended. The builder may go on building after it.
func (b *builder) finish(ctx context.Context) error {
	for _, r := range b.state.deliveries {
		b.out.add(r)
		if r.ended() {
			b.drop(r)
		} else {
			r.written()
		}
		if b.out.size() < chunkBytes {
			continue
		}
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.ended = nil
	if err := b.flush(ctx); err != nil {
		return err
	}
	// Only now: these rows, too, cost less than rows put into an index.
	if err := b.index(ctx); err != nil {
		return err
	}
	return upsertRows(ctx, b.tx, deploymentsTable, b.fresh, changedDeployments(b.state))
}

// flush writes what there is, without the writer.
func (b *builder) flush(ctx context.Context) error {
	defer b.out.reset()
	return b.out.flush(ctx, b.tx, b.fresh)
}
