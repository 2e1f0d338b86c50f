package archive

import (
	"crypto/sha256"
	"strconv"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// tree computes the RFC 6962 tree hash of a growing list: it keeps the roots of
// the complete subtrees, the largest first.
type tree struct {
	size  int64
	edge  [][32]byte
	bytes []byte
}

func (t *tree) add(e *eventlog.Event) {
	t.bytes = appendLeaf(append(t.bytes[:0], 0), e)
	node := sha256.Sum256(t.bytes)
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

// appendLeaf appends the canonical bytes of an event: its columns as netstrings.
func appendLeaf(b []byte, e *eventlog.Event) []byte {
	for _, s := range []string{
		"durhack-deployer/event/v1", strconv.FormatInt(e.Position, 10), e.ID, e.Instance, e.DeliveryID, string(e.Type),
		e.DeploymentSlug(), strconv.Itoa(e.Attempt), e.Actor, strconv.FormatInt(e.RecordedAt.UnixMicro(), 10),
	} {
		b = append(append(strconv.AppendInt(b, int64(len(s)), 10), ':'), s...)
		b = append(b, ',')
	}
	b = append(append(strconv.AppendInt(b, int64(len(e.Data)), 10), ':'), e.Data...)
	return append(b, ',')
}
