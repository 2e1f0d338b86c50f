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

// cursor reads rows in the order of their positions.
type cursor[T any] struct {
	pull func() (position int64, value T, more bool, err error)
	what string
	// position and value are those of the row at hand. After the last one the position
	// is MaxInt64, and ended says so: a row may claim that position, too.
	position int64
	value    T
	ended    bool
}

func (c *cursor[T]) next() error {
	var more bool
	var err error
	if c.position, c.value, more, err = c.pull(); err != nil {
		return fmt.Errorf("read %s: %w", c.what, err)
	}
	if !more {
		c.position, c.ended = math.MaxInt64, true
	}
	return nil
}

// hashedEvent is an event with the hash of its leaf.
type hashedEvent struct {
	event *Event
	leaf  *tlog.Hash
}

func eventCursor(r *reader) cursor[hashedEvent] {
	var rest batch // begins with the event at hand
	return cursor[hashedEvent]{what: "the event log", pull: func() (int64, hashedEvent, bool, error) {
		if len(rest.events) > 1 {
			rest.events, rest.leaves = rest.events[1:], rest.leaves[1:]
		} else if b, err := r.next(); b != nil {
			rest = *b
		} else {
			return 0, hashedEvent{}, false, err
		}
		e := &rest.events[0]
		return e.Position, hashedEvent{e, &rest.leaves[0]}, true, nil
	}}
}

func hashCursor(rows pgx.Rows) cursor[[]byte] {
	return cursor[[]byte]{what: "the stored hashes", pull: func() (int64, []byte, bool, error) {
		if !rows.Next() {
			return 0, nil, false, rows.Err()
		}
		v := rows.RawValues()
		if len(v) != 2 || len(v[0]) != 8 {
			return 0, nil, false, errRowShape
		}
		return int64(binary.BigEndian.Uint64(v[0])), v[1], true, nil
	}}
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

func newTreeWalk(from Edge) *treeWalk {
	w := &treeWalk{edge: from, roots: make(map[int64]tlog.Hash)}
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

// walk adds the positions from lower to upper, one by one, from the two
// tables, which it reads side by side: a join would sort or hash what is in
// order already. each is called with every event; only those that
// withData chooses (nil: all) have their data.
func (w *treeWalk) walk(ctx context.Context, events, hashes querier, lower, upper int64, withData func(*Event) bool, each func(*Event) error) error {
	ctx, cancel := context.WithCancel(ctx) // leaves the rest on the server
	defer cancel()
	ahead, err := readAhead(ctx, events, readOptions{leaves: true, data: withData}, sqlStreamEvents, lower, upper)
	if err != nil {
		return fmt.Errorf("read the event log: %w", err)
	}
	defer ahead.close()
	hashRows, err := hashes.Query(ctx, sqlStreamHashes, pgx.QueryExecModeDescribeExec, pgx.QueryResultFormats{pgx.BinaryFormatCode}, lower, upper)
	if err != nil {
		return fmt.Errorf("read the stored hashes: %w", err)
	}
	defer func() { cancel(); hashRows.Close() }()
	rows, stored := eventCursor(ahead), hashCursor(hashRows)
	if err = rows.next(); err == nil {
		err = stored.next()
	}
	for err == nil && !(rows.ended && stored.ended) {
		position, next := w.edge.size+1, min(rows.position, stored.position)
		atRow, atHashes := rows.position == next, stored.position == next
		switch {
		case next < position && atRow:
			w.report(next, textInserted)
			atHashes = false
		case next < position:
			w.report(next, textHashesExtra)
		case next-position > maxGap:
			w.fault(Fault{Position: position, Last: next - 1, Text: textNeither})
			w.report(next, "it stands so far behind the rest that nothing from here on was looked at")
			return nil
		case next > position:
			w.report(position, textNeither)
			w.add(nil, nil, nil)
			continue
		case atRow:
			var hashes []byte
			if atHashes {
				hashes = stored.value
			}
			w.add(rows.value.event, rows.value.leaf, hashes)
			if err := each(rows.value.event); err != nil {
				return err
			}
		default:
			w.report(position, textNoRow)
			w.add(nil, nil, stored.value)
		}
		if atRow {
			err = rows.next()
		}
		if atHashes && err == nil {
			err = stored.next()
		}
	}
	return err
}

// tree walks the rows up to upper, where the log should end at head, and returns the
// tree of their events. The first thing that does not fit is a *TreeError; each is not
// called from there on.
func (w *treeWalk) tree(ctx context.Context, events, hashes querier, lower, upper, head int64, withData func(*Event) bool, each func(*Event) error) (tlog.Tree, error) {
	var first *TreeError
	w.fault = func(f Fault) {
		if first == nil || f.Position < first.Position {
			first = &TreeError{f.Position, f.Text}
		}
	}
	err := w.walk(ctx, events, hashes, lower, upper, withData, func(e *Event) error {
		if first != nil {
			return first
		}
		return each(e)
	})
	switch {
	case err != nil:
		return tlog.Tree{}, err
	case first != nil:
		return tlog.Tree{}, first
	case w.edge.size != head:
		return tlog.Tree{}, &TreeError{min(w.edge.size, head) + 1, fmt.Sprintf("the events end at %d, and the head of the log is %d", w.edge.size, head)}
	}
	return w.edge.Tree(), nil
}
