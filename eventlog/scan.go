package eventlog

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Scan calls fn with every event after the position, in order, from one
// streaming query: one snapshot of the log, and memory for one event. It is the
// fast way to read all of it. A missing position is a *HoleError, as in Read.
//
// The event is reused: fn may keep its strings, but must copy the event and its
// Data (bytes.Clone) to keep those. Scan holds a connection while it runs.
func (l *Log) Scan(ctx context.Context, after int64, fn func(*Event) error) error {
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := l.pool.Query(ctx, `select `+eventColumns+` from public.events where position > $1 order by position`,
		pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.BinaryFormatCode}, after)
	if err != nil {
		return fmt.Errorf("scan the log: %w", err)
	}
	defer rows.Close()
	var d rowDecoder
	want := after + 1
	for rows.Next() {
		if err := d.decode(rows.RawValues()); err != nil {
			cancel()
			return fmt.Errorf("scan the log at position %d: %w", want, err)
		}
		if d.event.Position != want {
			cancel()
			return &HoleError{Want: want, Got: d.event.Position, Head: head}
		}
		if err := fn(&d.event); err != nil {
			cancel()
			return err
		}
		want++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("scan the log: %w", err)
	}
	if head >= want || head < after {
		return &HoleError{Want: want, Head: head}
	}
	return nil
}

// rowDecoder decodes rows in Postgres's binary format without reflection. The
// few strings that come again and again are allocated once.
type rowDecoder struct {
	event       Event
	known       map[string]string
	deliveryIDs [8]string // a delivery's events are near one another
	turn        int
}

// maxKnown bounds the strings that are remembered.
const maxKnown = 4096

func (d *rowDecoder) decode(v [][]byte) error {
	if len(v) != 10 || len(v[0]) != 8 || len(v[6]) != 4 || len(v[8]) != 8 {
		return fmt.Errorf("row has another shape than the event log's")
	}
	e := &d.event
	e.Position = int64(binary.BigEndian.Uint64(v[0]))
	e.ID = string(v[1])
	e.Instance = d.intern(v[2])
	e.DeliveryID = d.deliveryID(v[3])
	e.Type = Type(d.intern(v[4]))
	e.Deployment = nil
	if v[5] != nil {
		slug := d.intern(v[5])
		e.Deployment = &slug
	}
	e.Attempt = int(int32(binary.BigEndian.Uint32(v[6])))
	e.Actor = d.intern(v[7])
	e.RecordedAt = postgresTime(int64(binary.BigEndian.Uint64(v[8])))
	e.Data = v[9]
	return nil
}

// postgresTime converts microseconds since 2000-01-01 UTC.
func postgresTime(micros int64) time.Time {
	const y2000 = 946_684_800
	return time.Unix(y2000+micros/1e6, micros%1e6*1e3).UTC()
}

func (d *rowDecoder) intern(b []byte) string {
	if s, ok := d.known[string(b)]; ok {
		return s
	}
	if d.known == nil || len(d.known) >= maxKnown {
		d.known = make(map[string]string)
	}
	s := string(b)
	d.known[s] = s
	return s
}

func (d *rowDecoder) deliveryID(b []byte) string {
	for _, s := range d.deliveryIDs {
		if s == string(b) {
			return s
		}
	}
	s := string(b)
	d.deliveryIDs[d.turn] = s
	d.turn = (d.turn + 1) % len(d.deliveryIDs)
	return s
}
