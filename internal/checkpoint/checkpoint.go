// Package checkpoint owns the signed statements about the tree of the log, and
// what can be proved by them without the database: checkpoints in the form of
// https://c2sp.org/tlog-checkpoint, proofs of inclusion in that of
// https://c2sp.org/tlog-proof, and the Ed25519 keys of
// https://c2sp.org/signed-note that sign them.
package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxText bounds what is read as a checkpoint or a proof, in bytes.
const maxText = 64 << 20

// Checkpoint says what the log was at one size.
type Checkpoint struct {
	// Origin names the log, and is the name of the key that signs for it.
	Origin string
	tlog.Tree
}

var errMalformed = errors.New("not a checkpoint (https://c2sp.org/tlog-checkpoint)")

// text is what is signed.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.N, c.Hash)
}

// Sign returns the checkpoint with the key's signature, as a signed note.
func (c Checkpoint) Sign(k *Key) ([]byte, error) {
	if c.Origin != k.Name() {
		return nil, fmt.Errorf("sign a checkpoint of %q: the key is that of %q", c.Origin, k.Name())
	}
	signed, err := note.Sign(&note.Note{Text: c.text()}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("sign a checkpoint: %w", err)
	}
	return signed, nil
}

// Open returns the checkpoint in a signed note that one of the verifiers has
// signed for its origin. One that nobody known has signed is an error.
func Open(signed []byte, known ...note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(known...))
	if _, unsigned := errors.AsType[*note.UnverifiedNoteError](err); unsigned {
		return Checkpoint{}, fmt.Errorf("the checkpoint is not signed by %s", names(known))
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read a checkpoint: %w", err)
	}
	c, err := parse(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	for _, s := range n.Sigs {
		if s.Name != c.Origin {
			continue
		}
		// note.Open ignores the spare bits of the last digit: the same signature
		// could be written in several ways.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, fmt.Errorf("read a checkpoint: the signature of %s is not canonical base64", s.Name)
		}
		return c, nil
	}
	return Checkpoint{}, fmt.Errorf("the checkpoint is of %q, but that is not who signed it", c.Origin)
}

func names(known []note.Verifier) string {
	var list []string
	for _, v := range known {
		list = append(list, fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()))
	}
	if len(list) == 0 {
		return "a known key"
	}
	return strings.Join(list, " or ")
}

// Unverified returns what a signed note says, whatever key has signed it. It is worth
// as much as the place where it was kept.
func Unverified(signed []byte) (Checkpoint, error) {
	_, err := note.Open(signed, note.VerifierList())
	unsigned, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok {
		return Checkpoint{}, fmt.Errorf("read a checkpoint: %w", err)
	}
	return parse(unsigned.Note.Text)
}

// parse reads the text of a checkpoint; extension lines are allowed and ignored.
func parse(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(text) > maxText || len(lines) < 4 || lines[0] == "" || lines[len(lines)-1] != "" {
		return Checkpoint{}, errMalformed
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("size %.40q: %w", lines[1], errMalformed)
	}
	root, err := parseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("root %.80q: %w", lines[2], errMalformed)
	}
	return Checkpoint{Origin: lines[0], Tree: tlog.Tree{N: size, Hash: root}}, nil
}

// parseHash is strict: each hash has one spelling.
func parseHash(s string) (h tlog.Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || len(s) != base64.StdEncoding.EncodedLen(tlog.HashSize) {
		return h, errMalformed
	}
	copy(h[:], b)
	return h, nil
}
