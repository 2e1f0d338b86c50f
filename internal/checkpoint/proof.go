package checkpoint

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// proofHeader is the first line of https://c2sp.org/tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1"

// Proof is all that is needed to check, offline, that a log of which one knows
// the key holds an event. Its text has the event's leaf as its extra data.
type Proof struct {
	// Leaf is what eventlog.AppendLeaf made of the event, and Index its place in
	// the tree: the event's position less one.
	Leaf   []byte
	Index  int64
	Hashes tlog.RecordProof
	// Signed is the signed checkpoint that the hashes lead to.
	Signed []byte
}

var errProof = errors.New("not a proof (https://c2sp.org/tlog-proof)")

// Marshal returns the proof's text.
func (p Proof) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(p.Leaf), p.Index)
	for _, h := range p.Hashes {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(p.Signed)
	return b.Bytes()
}

// ParseProof reads the text of a proof. It checks the form only.
func ParseProof(text []byte) (Proof, error) {
	if len(text) > maxText {
		return Proof{}, fmt.Errorf("%d bytes are too many: %w", len(text), errProof)
	}
	head, signed, found := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 3 || lines[0] != proofHeader {
		return Proof{}, errProof
	}
	extra, ok := strings.CutPrefix(lines[1], "extra ")
	if !ok {
		return Proof{}, fmt.Errorf("it has no extra line with the event: %w", errProof)
	}
	leaf, err := base64.StdEncoding.Strict().DecodeString(extra)
	if err != nil || strings.ContainsAny(extra, "\r\n") {
		return Proof{}, fmt.Errorf("the extra line: %w", errProof)
	}
	number, ok := strings.CutPrefix(lines[2], "index ")
	index, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || index < 0 || strconv.FormatInt(index, 10) != number {
		return Proof{}, fmt.Errorf("the index line: %w", errProof)
	}
	p := Proof{Leaf: leaf, Index: index, Hashes: tlog.RecordProof{}, Signed: []byte(signed)}
	for _, line := range lines[3:] {
		h, err := parseHash(line)
		if err != nil || len(p.Hashes) == 63 {
			return Proof{}, fmt.Errorf("hash %d: %w", len(p.Hashes)+1, errProof)
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}

// Check returns the event that is proved, and the checkpoint that it is in. The
// key must have signed the checkpoint, the hashes must lead from the leaf to its
// root, and the leaf must be that of the event at the position of its index.
func (p Proof) Check(key note.Verifier) (eventlog.Event, Checkpoint, error) {
	c, err := Open(p.Signed, key)
	if err != nil {
		return eventlog.Event{}, Checkpoint{}, err
	}
	if p.Index >= c.N {
		return eventlog.Event{}, Checkpoint{}, fmt.Errorf("the proof is of index %d, but the checkpoint is of a log of %d events", p.Index, c.N)
	}
	if err := tlog.CheckRecord(p.Hashes, c.N, c.Hash, p.Index, tlog.RecordHash(p.Leaf)); err != nil {
		return eventlog.Event{}, Checkpoint{}, fmt.Errorf("the event is not in the log of the checkpoint: the hashes of the proof do not lead from it to the root")
	}
	e, err := eventlog.ParseLeaf(p.Leaf)
	if err != nil {
		return eventlog.Event{}, Checkpoint{}, fmt.Errorf("read the event of the proof: %w", err)
	}
	if e.Position != p.Index+1 {
		return eventlog.Event{}, Checkpoint{}, fmt.Errorf("the event says that it is at position %d, but the log has it at %d", e.Position, p.Index+1)
	}
	return e, c, nil
}
