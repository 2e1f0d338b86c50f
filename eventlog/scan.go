package eventlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// Scan calls fn with every event after the position, in order and some thousand
// at a time, from one streaming query: one snapshot of the log, and memory for a
// few batches, which are read while fn works. It is the fast way to read all of
// it. A missing position is a *HoleError, as in Read.
//
// The events are reused: fn may keep their strings, but must copy the events and
// their Data (bytes.Clone) to keep those. Scan holds a connection while it runs.
func (l *Log) Scan(ctx context.Context, after int64, fn func([]Event) error) error {
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	rows, err := readAhead(ctx, l.pool, readOptions{}, `select `+eventColumns+` from public.events where position > $1 order by position`, after)
	if err != nil {
		return fmt.Errorf("scan the log: %w", err)
	}
	defer rows.close()
	want := after + 1
	for {
		b, err := rows.next()
		if err != nil {
			return fmt.Errorf("scan the log after position %d: %w", want-1, err)
		}
		if b == nil {
			break
		}
		events := b.events
		n := 0
		for n < len(events) && events[n].Position == want {
			n, want = n+1, want+1
		}
		if n > 0 {
			if err := fn(events[:n]); err != nil {
				return err
			}
		}
		if n < len(events) {
			return &HoleError{Want: want, Got: events[n].Position, Head: head}
		}
	}
	if head >= want || head < after {
		return &HoleError{Want: want, Head: head}
	}
	return nil
}

const (
	// batchEvents and batchBytes bound what is handed over at once, batches how
	// many of them there are.
	batchEvents = 4096
	batchBytes  = 4 << 20
	batches     = 3
)

// readOptions say what is wanted of each event.
type readOptions struct {
	// leaves are the hashes of the events' leaves, which are computed as they come.
	leaves bool
	// data says which events keep their data; nil is all of them.
	data func(*Event) bool
}

// batch is a run of events with their own copy of the data.
type batch struct {
	events []Event
	leaves []tlog.Hash
	data   []byte
	size   int
}

func (b *batch) reset() {
	b.events, b.leaves, b.data, b.size = b.events[:0], b.leaves[:0], b.data[:0], 0
}

// keep copies the event's data. Those that no longer fit get a new buffer; what
// points into the old one keeps it.
func (b *batch) keep(e *Event) {
	b.size += len(e.Data)
	if len(b.data)+len(e.Data) > cap(b.data) {
		b.data = make([]byte, 0, max(min(2*cap(b.data), batchBytes/2), 4096, len(e.Data)))
	}
	from := len(b.data)
	b.data = append(b.data, e.Data...)
	e.Data = b.data[from:len(b.data):len(b.data)]
}

func (b *batch) full() bool { return len(b.events) == batchEvents || b.size >= batchBytes }

// reader is a query for events and a goroutine that reads them ahead of the
// caller, who has other work to do with them.
type reader struct {
	filled, empty chan *batch
	current       *batch
	options       readOptions
	cancel        context.CancelFunc
	err           error // of the goroutine, once filled is closed
}

// readAhead starts a query whose columns are eventColumns. The caller closes the reader.
func readAhead(ctx context.Context, q querier, o readOptions, sql string, args ...any) (*reader, error) {
	ctx, cancel := context.WithCancel(ctx)
	binary := []any{pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.BinaryFormatCode}}
	rows, err := q.Query(ctx, sql, append(binary, args...)...)
	if err != nil {
		cancel()
		return nil, err
	}
	r := &reader{filled: make(chan *batch, batches), empty: make(chan *batch, batches), cancel: cancel, options: o}
	for range batches {
		r.empty <- &batch{}
	}
	go func() {
		defer close(r.filled)
		defer rows.Close()
		r.err = r.read(ctx, rows)
	}()
	return r, nil
}

func (r *reader) read(ctx context.Context, rows pgx.Rows) error {
	var d rowDecoder
	var h leafHasher
	var b *batch
	for rows.Next() {
		if b == nil {
			select {
			case b = <-r.empty:
				b.reset()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		b.events = append(b.events, Event{})
		e := &b.events[len(b.events)-1]
		if err := d.decode(e, rows.RawValues()); err != nil {
			r.cancel() // leaves the rest on the server
			return err
		}
		if r.options.leaves {
			b.leaves = append(b.leaves, h.hash(e))
		}
		if r.options.data == nil || r.options.data(e) {
			b.keep(e)
		} else {
			e.Data = nil
		}
		if b.full() {
			r.filled <- b // never blocks: there are as many places as batches
			b = nil
		}
	}
	if b != nil {
		r.filled <- b
	}
	return rows.Err()
}

// next returns the events that follow, nil at the end. They are the caller's
// until it calls again.
func (r *reader) next() (*batch, error) {
	if r.current != nil {
		r.empty <- r.current
		r.current = nil
	}
	b, ok := <-r.filled
	if !ok {
		return nil, r.err
	}
	r.current = b
	return b, nil
}

// close ends the query, and leaves on the server what was not read.
func (r *reader) close() {
	r.cancel()
	for range r.filled { // until the goroutine has ended
	}
}

var errRowShape = errors.New("the row has another shape than the event log's")

// rowDecoder decodes rows in Postgres's binary format without reflection. What
// comes again and again is allocated once.
type rowDecoder struct {
	names       interner
	deliveryIDs interner // a delivery's events are near one another
}

// decode reads a row into e, whose Data are then those of the row.
func (d *rowDecoder) decode(e *Event, v [][]byte) error {
	if len(v) != 10 || len(v[0]) != 8 || len(v[6]) != 4 || len(v[8]) != 8 {
		return errRowShape
	}
	*e = Event{
		Position:   int64(binary.BigEndian.Uint64(v[0])),
		ID:         string(v[1]),
		Instance:   *d.names.text(v[2]),
		DeliveryID: *d.deliveryIDs.text(v[3]),
		Type:       Type(*d.names.text(v[4])),
		Attempt:    int(int32(binary.BigEndian.Uint32(v[6]))),
		Actor:      *d.names.text(v[7]),
		RecordedAt: postgresTime(int64(binary.BigEndian.Uint64(v[8]))),
		Data:       v[9],
	}
	if v[5] != nil {
		e.Deployment = d.names.text(v[5])
	}
	return nil
}

// postgresTime converts microseconds since 2000-01-01 UTC.
func postgresTime(micros int64) time.Time {
	const y2000 = 946_684_800
	return time.Unix(y2000+micros/1e6, micros%1e6*1e3).UTC()
}

// interner remembers texts, one for each place, so that the next equal one
// need not be allocated.
type interner [256]*string

func (c *interner) text(b []byte) *string {
	place := uint8(len(b))
	if len(b) > 0 {
		place += b[0]*7 + b[len(b)/2]*31 + b[len(b)-1]*61
	}
	if s := c[place]; s != nil && *s == string(b) {
		return s
	}
	s := string(b)
	c[place] = &s
	return &s
}
