package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

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

// treeWalk builds the tree of the events, position by position, and compares it with
// the stored hashes. What does not fit is told at the position where it is: a stored
// hash is right where it is that of the events, or of what is stored below it, where
// that was told of already.
type treeWalk struct {
	edge   Edge         // of the events
	stored []storedNode // what is stored for the nodes of the edge
	hashes []byte       // those of the position at hand, as the events give them
	lastID string
	lastAt time.Time
	fault  func(Fault)
	// sizes are those at which the root is asked for, in order; roots are the answers.
	sizes []int64
	roots map[int64]tlog.Hash
}

// storedNode is a stored hash, or what follows from those below where it is missing.
type storedNode struct {
	hash  tlog.Hash
	known bool
}

func newTreeWalk(from Edge, fault func(Fault)) *treeWalk {
	w := &treeWalk{edge: from, fault: fault, roots: make(map[int64]tlog.Hash)}
	for _, h := range from.nodes {
		w.stored = append(w.stored, storedNode{h, true})
	}
	return w
}

const (
	textChanged     = "it was changed: the row and the stored hashes do not fit together"
	textNoHashes    = "its stored hashes are missing"
	textNoRow       = "the row is missing"
	textNeither     = "the row and its stored hashes are missing"
	textInserted    = "a row was inserted that has no place in the log"
	textHashesExtra = "hashes are stored that have no place in the tree"
	textOutOfOrder  = "it is out of order: its ID does not follow that of the position before"
	textBackDated   = "its time is before that of the position before"
)

func (w *treeWalk) report(position int64, text string) {
	w.fault(Fault{Position: position, Text: text})
}

// add adds the next position: its event with the hash of its leaf (nil where the
// row is missing) and its stored hashes (nil where they are missing).
func (w *treeWalk) add(e *Event, leaf *tlog.Hash, stored []byte) {
	position := w.edge.size + 1
	if want := completed(position) * tlog.HashSize; stored != nil && len(stored) != want {
		w.report(position, fmt.Sprintf("%d bytes of hashes are stored, where it should be %d", len(stored), want))
		stored = nil
	} else if stored == nil && e != nil {
		w.report(position, textNoHashes)
	}
	var hash tlog.Hash
	switch {
	case e != nil:
		w.order(position, e)
		hash = *leaf
	case stored != nil:
		hash = tlog.Hash(stored[:tlog.HashSize])
	}
	w.hashes = w.edge.Add(hash, w.hashes[:0])
	if top := len(w.edge.nodes) - 1; bytes.Equal(w.hashes, stored) {
		w.stored = append(w.stored[:top], storedNode{w.edge.nodes[top], true})
	} else if !w.compare(storedNode{hash, e != nil || stored != nil}, stored) {
		w.report(position, textChanged)
	}
	for len(w.sizes) > 0 && w.sizes[0] <= w.edge.size {
		if w.sizes[0] == w.edge.size {
			w.roots[w.edge.size] = w.edge.Root()
		}
		w.sizes = w.sizes[1:]
	}
}

func (w *treeWalk) order(position int64, e *Event) {
	if e.ID <= w.lastID {
		w.report(position, textOutOfOrder)
	}
	if e.RecordedAt.Before(w.lastAt) {
		w.report(position, textBackDated)
	}
	w.lastID, w.lastAt = e.ID, e.RecordedAt
}

// compare says whether what is stored from the leaf x upwards is right.
func (w *treeWalk) compare(x storedNode, stored []byte) bool {
	right := true
	for at := 0; at < len(w.hashes); at += tlog.HashSize {
		if at > 0 {
			top := len(w.stored) - 1
			left := w.stored[top]
			w.stored = w.stored[:top]
			x = storedNode{tlog.NodeHash(left.hash, x.hash), left.known && x.known}
		}
		if stored == nil {
			continue
		}
		have := tlog.Hash(stored[at : at+tlog.HashSize])
		if x.known && have != x.hash && have != tlog.Hash(w.hashes[at:at+tlog.HashSize]) {
			right = false
		}
		x = storedNode{have, true}
	}
	w.stored = append(w.stored, x)
	return right
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
		position := w.edge.size + 1
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
