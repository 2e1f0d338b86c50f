package eventlog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// leafTag names the format of a leaf, so that a leaf of another format can
// never have the same bytes.
const leafTag = "durhack-deployer/event/v1"

// AppendLeaf appends the canonical bytes of an event to b: what the log's Merkle
// tree has as its leaf. They are netstrings (the length in decimal, a colon, the
// bytes, a comma), of: the tag, position, id, instance, delivery_id, type,
// deployment ("" for null; a slug is never empty), attempt, actor, recorded_at in
// microseconds since 1970, and data exactly as stored. Numbers are in decimal.
// docs/log-format.md is the contract.
func AppendLeaf(b []byte, e *Event) []byte {
	b = netstring(b, leafTag)
	b = netnumber(b, e.Position)
	b = netstring(b, e.ID)
	b = netstring(b, e.Instance)
	b = netstring(b, e.DeliveryID)
	b = netstring(b, string(e.Type))
	b = netstring(b, e.DeploymentSlug())
	b = netnumber(b, int64(e.Attempt))
	b = netstring(b, e.Actor)
	b = netnumber(b, e.RecordedAt.UnixMicro())
	return netstring(b, e.Data)
}

func netstring[S ~string | ~[]byte](b []byte, s S) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	b = append(b, s...)
	return append(b, ',')
}

func netnumber(b []byte, n int64) []byte {
	var digits [20]byte
	return netstring(b, strconv.AppendInt(digits[:0], n, 10))
}

// leafHasher computes leaf hashes without allocating for each.
type leafHasher struct{ buf []byte }

// hash is tlog.RecordHash of the event's leaf.
func (h *leafHasher) hash(e *Event) tlog.Hash {
	h.buf = AppendLeaf(append(h.buf[:0], 0x00), e)
	return sha256.Sum256(h.buf)
}

// LeafHash is the hash of an event's leaf in the tree: SHA-256 of a zero byte
// and the leaf.
func LeafHash(e *Event) tlog.Hash {
	var h leafHasher
	return h.hash(e)
}

var errLeaf = errors.New("not the leaf of an event of this log")

// ParseLeaf reads an event from its canonical bytes. Bytes that AppendLeaf would
// not have written are an error, so that a leaf and its event are the same thing.
func ParseLeaf(leaf []byte) (Event, error) {
	var fields [11][]byte
	rest := leaf
	for i := range fields {
		size, after, found := bytes.Cut(rest, []byte{':'})
		n, err := strconv.ParseUint(string(size), 10, 31)
		if !found || err != nil || uint64(len(after)) < n+1 || after[n] != ',' {
			return Event{}, fmt.Errorf("field %d: %w", i+1, errLeaf)
		}
		fields[i], rest = after[:n], after[n+1:]
	}
	if string(fields[0]) != leafTag {
		return Event{}, fmt.Errorf("format %.40q is not %q: %w", fields[0], leafTag, errLeaf)
	}
	position, err1 := strconv.ParseInt(string(fields[1]), 10, 64)
	attempt, err2 := strconv.ParseInt(string(fields[7]), 10, 32)
	micros, err3 := strconv.ParseInt(string(fields[9]), 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Event{}, fmt.Errorf("%w: %w", errLeaf, err)
	}
	e := Event{
		Position: position, ID: string(fields[2]), Instance: string(fields[3]), DeliveryID: string(fields[4]), Type: Type(fields[5]),
		Attempt: int(attempt), Actor: string(fields[8]), RecordedAt: time.UnixMicro(micros).UTC(), Data: bytes.Clone(fields[10]),
	}
	if len(fields[6]) > 0 {
		slug := string(fields[6])
		e.Deployment = &slug
	}
	if !bytes.Equal(AppendLeaf(nil, &e), leaf) {
		return Event{}, fmt.Errorf("its numbers or its end are written otherwise: %w", errLeaf)
	}
	return e, nil
}
