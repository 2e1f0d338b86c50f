package eventlog

import (
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// treeWalk rebuilds the tree from the events, leaf by leaf, and compares it with
// the stored hashes. It keeps two values of each node, so that it can tell which
// of the two was changed: what the events give, and what is stored.
type treeWalk struct {
	size   int64
	nodes  []walkNode // as in edge
	lastID string
	lastAt time.Time
	fault  func(Fault)
	// sizes are those at which the root is asked for, in order; roots are the answers.
	sizes []int64
	roots map[int64]tlog.Hash
}

type walkNode struct {
	// want is what the events give, have what is stored, or what follows from
	// what is stored below where the stored one is missing or wrong.
	want, have tlog.Hash
	// leaf is the position of a leaf whose row and stored hash disagree, until
	// the hash above tells which of them is right; else 0.
	leaf int64
	// unknown is set where there is neither a row nor a hash.
	unknown bool
}

func newTreeWalk(from Edge, fault func(Fault)) *treeWalk {
	w := &treeWalk{size: from.size, fault: fault, roots: make(map[int64]tlog.Hash)}
	for _, h := range from.nodes {
		w.nodes = append(w.nodes, walkNode{want: h, have: h})
	}
	return w
}

const (
	textRowChanged  = "the row was changed: it does not give the leaf that the tree was built on"
	textHashChanged = "its stored hash was changed: the row gives the leaf that the tree was built on"
	textDisagree    = "the row and its stored hash do not fit each other"
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
	position := w.size + 1
	if want := completed(position) * tlog.HashSize; stored != nil && len(stored) != want {
		w.report(position, fmt.Sprintf("%d bytes of hashes are stored, where it should be %d", len(stored), want))
		stored = nil
	} else if stored == nil && e != nil {
		w.report(position, textNoHashes)
	}
	x := w.leaf(position, e, leaf, stored)
	for n, level := w.size, 1; n&1 == 1; n, level = n>>1, level+1 {
		left := w.nodes[len(w.nodes)-1]
		w.nodes = w.nodes[:len(w.nodes)-1]
		x = w.join(left, x, hashAt(stored, level), position, level)
	}
	w.nodes = append(w.nodes, x)
	w.size++
	for len(w.sizes) > 0 && w.sizes[0] <= w.size {
		if w.sizes[0] == w.size {
			w.roots[w.size] = w.root()
		}
		w.sizes = w.sizes[1:]
	}
}

func (w *treeWalk) leaf(position int64, e *Event, leaf *tlog.Hash, stored []byte) walkNode {
	have := hashAt(stored, 0)
	if e == nil {
		if have == nil {
			return walkNode{unknown: true}
		}
		return walkNode{want: *have, have: *have}
	}
	if e.ID <= w.lastID {
		w.report(position, textOutOfOrder)
	}
	if e.RecordedAt.Before(w.lastAt) {
		w.report(position, textBackDated)
	}
	w.lastID, w.lastAt = e.ID, e.RecordedAt
	x := walkNode{want: *leaf}
	x.have = x.want
	if have != nil && *have != x.want {
		x.have, x.leaf = *have, position
	}
	return x
}

func hashAt(stored []byte, level int) *tlog.Hash {
	if stored == nil {
		return nil
	}
	return (*tlog.Hash)(stored[level*tlog.HashSize:])
}

// join makes the node above two, which the row of position completes; have is
// what is stored for it.
func (w *treeWalk) join(left, right walkNode, have *tlog.Hash, position int64, level int) walkNode {
	if left.unknown || right.unknown {
		w.settle(left, textDisagree)
		w.settle(right, textDisagree)
		if have == nil {
			return walkNode{unknown: true}
		}
		return walkNode{want: *have, have: *have}
	}
	x := walkNode{want: tlog.NodeHash(left.want, right.want)}
	if left.want == left.have && right.want == right.have && (have == nil || *have == x.want) {
		x.have = x.want
		return x
	}
	x.have = tlog.NodeHash(left.have, right.have)
	switch {
	case have == nil:
		w.settle(left, textDisagree)
		w.settle(right, textDisagree)
	case *have == x.want:
		x.have = x.want
		w.settle(left, textHashChanged)
		w.settle(right, textHashChanged)
	case *have == x.have:
		w.settle(left, textRowChanged)
		w.settle(right, textRowChanged)
	case *have == tlog.NodeHash(left.want, right.have):
		x.have = *have
		w.settle(left, textHashChanged)
		w.settle(right, textRowChanged)
	case *have == tlog.NodeHash(left.have, right.want):
		x.have = *have
		w.settle(left, textRowChanged)
		w.settle(right, textHashChanged)
	default:
		w.settle(left, textDisagree)
		w.settle(right, textDisagree)
		w.report(position, fmt.Sprintf("the stored hash over positions %d to %d was changed", position-1<<level+1, position))
	}
	return x
}

func (w *treeWalk) settle(n walkNode, text string) {
	if n.leaf != 0 {
		w.report(n.leaf, text)
	}
}

// finish reports what no later hash can tell more of.
func (w *treeWalk) finish() {
	if n := len(w.nodes); n > 0 {
		w.settle(w.nodes[n-1], textDisagree)
	}
}

// root is what the events give.
func (w *treeWalk) root() tlog.Hash {
	hashes := make([]tlog.Hash, len(w.nodes))
	for i, n := range w.nodes {
		hashes[i] = n.want
	}
	return rootOf(hashes)
}
