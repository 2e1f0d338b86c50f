package eventlog

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	sqlStreamEvents = `select ` + eventColumns + ` from public.events where position between $1 and $2 order by position`
	sqlStreamHashes = `select position, hashes from public.event_hashes where position between $1 and $2 order by position`
)

// stream reads rows, whose first column is the position, in order.
type stream struct {
	rows pgx.Rows
	// position is that of the row at hand, MaxInt64 after the last, which ended says:
	// a row may claim that position, too.
	position int64
	ended    bool
	values   [][]byte
	columns  int
	what     string
}

func openStream(ctx context.Context, q querier, what, sql string, columns int, from, to int64) (*stream, error) {
	rows, err := q.Query(ctx, sql, pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.BinaryFormatCode}, from, to)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	s := &stream{rows: rows, columns: columns, what: what}
	if err := s.next(); err != nil {
		rows.Close()
		return nil, err
	}
	return s, nil
}

func (s *stream) next() error {
	if !s.rows.Next() {
		s.position, s.ended = math.MaxInt64, true
		if err := s.rows.Err(); err != nil {
			return fmt.Errorf("read %s: %w", s.what, err)
		}
		return nil
	}
	s.values = s.rows.RawValues()
	if len(s.values) != s.columns || len(s.values[0]) != 8 {
		return fmt.Errorf("read %s: rows have another shape than they should", s.what)
	}
	s.position = int64(binary.BigEndian.Uint64(s.values[0]))
	return nil
}

// eventStream is a stream of events with the hashes of their leaves.
type eventStream struct {
	*reader
	rest batch // begins with the event at hand
	// position is that of the event at hand; ended says that there is none.
	position int64
	ended    bool
}

func openEvents(ctx context.Context, q querier, o readOptions, from, to int64) (*eventStream, error) {
	r, err := readAhead(ctx, q, o, sqlStreamEvents, from, to)
	if err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	s := &eventStream{reader: r}
	if err := s.next(); err != nil {
		r.close()
		return nil, err
	}
	return s, nil
}

func (s *eventStream) next() error {
	if len(s.rest.events) > 1 {
		s.rest.events, s.rest.leaves = s.rest.events[1:], s.rest.leaves[1:]
		s.position = s.rest.events[0].Position
		return nil
	}
	b, err := s.reader.next()
	if err != nil {
		return fmt.Errorf("read the event log: %w", err)
	}
	if b == nil {
		s.position, s.ended = math.MaxInt64, true
		return nil
	}
	s.rest, s.position = *b, b.events[0].Position
	return nil
}

// maxGap is how many positions in a row may be missing before the rest is not
// looked at: what stands behind such a gap is no part of this log.
const maxGap = 1 << 16

// walkRows gives the positions from lower to upper to w, one by one, from the two
// tables, which it reads side by side: a join would sort or hash what is in
// order already. each, if not nil, is called with every event; only those that
// withData chooses (nil: all) have their data.
func walkRows(ctx context.Context, events, hashes querier, w *treeWalk, lower, upper int64, withData func(*Event) bool, each func(*Event) error) error {
	ctx, cancel := context.WithCancel(ctx) // leaves the rest on the server
	defer cancel()
	rows, err := openEvents(ctx, events, readOptions{leaves: true, data: withData}, lower, upper)
	if err != nil {
		return err
	}
	defer rows.close()
	stored, err := openStream(ctx, hashes, "the stored hashes", sqlStreamHashes, 2, lower, upper)
	if err != nil {
		return err
	}
	defer func() { cancel(); stored.rows.Close() }()
	for !rows.ended || !stored.ended {
		position := w.size + 1
		next := min(rows.position, stored.position)
		if next < position {
			if rows.position == next {
				w.report(next, textInserted)
				err = rows.next()
			} else {
				w.report(next, textHashesExtra)
				err = stored.next()
			}
			if err != nil {
				return err
			}
			continue
		}
		if next-position > maxGap {
			w.fault(Fault{Position: position, Last: next - 1, Text: textNeither})
			w.report(next, "it stands so far behind the rest that nothing from here on was looked at")
			return nil
		}
		var e *Event
		var leaf *tlog.Hash
		var hashes []byte
		if rows.position == position {
			e, leaf = &rows.rest.events[0], &rows.rest.leaves[0]
		}
		if stored.position == position {
			hashes = stored.values[1]
		}
		switch {
		case e == nil && hashes == nil:
			w.report(position, textNeither)
		case e == nil:
			w.report(position, textNoRow)
		}
		w.add(e, leaf, hashes)
		if e != nil && each != nil {
			if err := each(e); err != nil {
				return err
			}
		}
		if e != nil {
			if err := rows.next(); err != nil {
				return err
			}
		}
		if hashes != nil {
			if err := stored.next(); err != nil {
				return err
			}
		}
	}
	return nil
}
