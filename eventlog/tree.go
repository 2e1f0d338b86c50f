package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// The tree of the log: leaf n is the event at position n+1. The row of a
// position in event_hashes holds the hashes that its leaf completes, the leaf's
// first and then level by level: what tlog.StoredHashesForRecordHash returns.

// TreeError says that the stored hashes are not those of the events.
type TreeError struct {
	// Position is where that shows.
	Position int64
	Text     string
}

func (e *TreeError) Error() string {
	return fmt.Sprintf("the tree of the event log is broken at position %d: %s", e.Position, e.Text)
}

// Edge is the right edge of a tree: the roots of its complete subtrees, the
// largest first. Their sizes are the bits of the tree's size. It is all that is
// needed to add leaves and to know the root.
type Edge struct {
	size  int64
	nodes []tlog.Hash
}

// Add adds a leaf and appends to stored the hashes that it completes.
func (t *Edge) Add(leaf tlog.Hash, stored []byte) []byte {
	h := leaf
	stored = append(stored, h[:]...)
	for n := t.size; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.nodes[len(t.nodes)-1], h)
		t.nodes = t.nodes[:len(t.nodes)-1]
		stored = append(stored, h[:]...)
	}
	t.nodes = append(t.nodes, h)
	t.size++
	return stored
}

// Root is the root of the tree; the empty tree's is SHA-256 of nothing.
func (t *Edge) Root() tlog.Hash {
	if len(t.nodes) == 0 {
		empty, _ := tlog.TreeHash(0, nil) // reads nothing, and cannot fail
		return empty
	}
	h := t.nodes[len(t.nodes)-1]
	for i := len(t.nodes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.nodes[i], h)
	}
	return h
}

// Tree is the tree.
func (t *Edge) Tree() tlog.Tree { return tlog.Tree{N: t.size, Hash: t.Root()} }

// place is where a hash is stored: in the row of a position, from byte level*32.
type place struct {
	position int64
	level    int
}

// edgePlaces are those of the edge of a tree of the size, the largest subtree first.
func edgePlaces(size int64) []place {
	places := make([]place, 0, bits.OnesCount64(uint64(size)))
	position := int64(0)
	for rest := uint64(size); rest != 0; {
		level := bits.Len64(rest) - 1
		position += 1 << level
		rest &^= 1 << level
		places = append(places, place{position, level})
	}
	return places
}

// completed is the number of hashes in the row of a position.
func completed(position int64) int { return 1 + bits.TrailingZeros64(uint64(position)) }

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const sqlHashes = `select position, hashes from public.event_hashes where position = any($1)`

// readHashes reads what is stored at the places. A hash that is not there is a
// *TreeError.
func readHashes(ctx context.Context, q querier, places []place) ([]tlog.Hash, error) {
	if len(places) == 0 {
		return nil, nil
	}
	positions := make([]int64, len(places))
	for i, p := range places {
		positions[i] = p.position
	}
	rows, err := q.Query(ctx, sqlHashes, positions)
	if err != nil {
		return nil, fmt.Errorf("read stored hashes: %w", err)
	}
	stored := make(map[int64][]byte, len(places))
	var position int64
	var hashes []byte
	if _, err := pgx.ForEachRow(rows, []any{&position, &hashes}, func() error {
		stored[position] = append([]byte(nil), hashes...)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read stored hashes: %w", err)
	}
	out := make([]tlog.Hash, len(places))
	for i, p := range places {
		row, ok := stored[p.position]
		if !ok {
			return nil, &TreeError{p.position, "its stored hashes are missing"}
		}
		if len(row) < (p.level+1)*tlog.HashSize {
			return nil, &TreeError{p.position, fmt.Sprintf("only %d bytes of hashes are stored", len(row))}
		}
		copy(out[i][:], row[p.level*tlog.HashSize:])
	}
	return out, nil
}

// readEdge reads the edge of the tree of the size from the stored hashes.
func readEdge(ctx context.Context, q querier, size int64) (Edge, error) {
	nodes, err := readHashes(ctx, q, edgePlaces(size))
	return Edge{size, nodes}, err
}

// hashReader reads stored hashes by tlog's index, for proofs. It holds for any
// tree up to the head of the log; ctx is that of each read.
func (l *Log) hashReader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		places := make([]place, len(indexes))
		for i, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			places[i] = place{(n + 1) << level, level}
		}
		return readHashes(ctx, l.pool, places)
	})
}

// Grow returns the tree of the whole log, given an older one that the caller
// knows to be true (the zero Tree: none), and vouches that the new one contains
// it. It takes no stored hash on trust: those that it builds on must lead to the
// old root, and the leaves since then are computed from the events themselves.
// What does not fit is a *TreeError.
//
// It does not look at the events of the old tree again; Verify does.
func (l *Log) Grow(ctx context.Context, old tlog.Tree) (tlog.Tree, error) {
	head, err := l.Head(ctx)
	if err != nil {
		return tlog.Tree{}, err
	}
	if head < old.N {
		return tlog.Tree{}, &TreeError{head + 1, fmt.Sprintf("the log ends at %d, but it went to %d when its tree was last known", head, old.N)}
	}
	from, err := readEdge(ctx, l.pool, old.N)
	if err != nil {
		return tlog.Tree{}, err
	}
	if old.N > 0 && from.Root() != old.Hash {
		return tlog.Tree{}, &TreeError{old.N, "the stored hashes of the positions up to here do not lead to the root that was last known"}
	}
	last, err := l.Read(ctx, max(old.N-1, 0), 1)
	if err != nil {
		return tlog.Tree{}, err
	}
	walk := newTreeWalk(from)
	if old.N > 0 && len(last) > 0 {
		walk.lastID, walk.lastAt = last[0].ID, last[0].RecordedAt
	}
	now, err := walk.tree(ctx, l.pool, l.pool, old.N+1, head, head, namesBody, func(*Event) error { return nil })
	if err != nil {
		return tlog.Tree{}, err
	}
	// The same by the proof that a holder of the old tree would be given.
	if old.N > 0 {
		proof, err := tlog.ProveTree(now.N, old.N, l.hashReader(ctx))
		if err != nil {
			return tlog.Tree{}, fmt.Errorf("prove that the tree of %d contains that of %d: %w", now.N, old.N, err)
		}
		if err := tlog.CheckTree(proof, now.N, now.Hash, old.N, old.Hash); err != nil {
			return tlog.Tree{}, &TreeError{old.N, "the stored hashes do not prove that the tree has only grown since"}
		}
	}
	return now, nil
}

// ErrNoPosition says that the log has no event at a position.
var ErrNoPosition = errors.New("the log has no such position")

// Prove returns the event at the position, its leaf, and the proof that the tree
// contains it. The tree must be one of this log, not larger than it is. An event
// or hashes that do not lead to the tree's root are a *TreeError.
func (l *Log) Prove(ctx context.Context, tree tlog.Tree, position int64) (leaf []byte, proof tlog.RecordProof, err error) {
	if position < 1 || position > tree.N {
		return nil, nil, fmt.Errorf("position %d of a tree of %d: %w", position, tree.N, ErrNoPosition)
	}
	events, err := l.Read(ctx, position-1, 1)
	if err != nil {
		return nil, nil, err
	}
	if len(events) == 0 {
		return nil, nil, fmt.Errorf("position %d: %w", position, ErrNoPosition)
	}
	leaf = AppendLeaf(nil, &events[0])
	proof, err = tlog.ProveRecord(tree.N, position-1, l.hashReader(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("prove position %d: %w", position, err)
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, position-1, tlog.RecordHash(leaf)); err != nil {
		return nil, nil, &TreeError{position, "the event and the stored hashes do not lead to the root of the tree"}
	}
	return leaf, proof, nil
}
