package archive

import (
	"crypto/sha256"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// tree computes the RFC 6962 tree hash of a growing list: it keeps the roots of
// the complete subtrees, the largest first.
type tree struct {
	size int64
	edge [][32]byte
}

func (t *tree) add(e *eventlog.Event) {
	node := [32]byte(eventlog.LeafHash(e))
	for rest := t.size; rest&1 == 1; rest >>= 1 {
		node = join(t.edge[len(t.edge)-1], node)
		t.edge = t.edge[:len(t.edge)-1]
	}
	t.edge = append(t.edge, node)
	t.size++
}

func (t *tree) root() [32]byte {
	if len(t.edge) == 0 {
		return sha256.Sum256(nil)
	}
	node := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		node = join(t.edge[i], node)
	}
	return node
}

func join(left, right [32]byte) [32]byte {
	b := append([]byte{1}, left[:]...)
	return sha256.Sum256(append(b, right[:]...))
}
