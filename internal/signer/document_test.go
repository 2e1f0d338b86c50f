package signer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
)

// What follows is a verifier that was written from docs/log-format.md alone:
// SQL, SHA-256, base64 and Ed25519, and nothing of this repository.

func sha(parts ...[]byte) []byte {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

func leafOf(columns []string) []byte {
	var leaf []byte
	for _, c := range append([]string{"durhack-deployer/event/v1"}, columns...) {
		leaf = fmt.Appendf(leaf, "%d:%s,", len(c), c)
	}
	return leaf
}

func rootOf(leaves [][]byte) []byte {
	switch len(leaves) {
	case 0:
		return sha()
	case 1:
		return sha([]byte{0}, leaves[0])
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return sha([]byte{1}, rootOf(leaves[:k]), rootOf(leaves[k:]))
}

func storedHashes(leaves [][]byte, position int) []byte {
	var row []byte
	for i := 0; i <= bits.TrailingZeros(uint(position)); i++ {
		row = append(row, rootOf(leaves[position-1<<i:position])...)
	}
	return row
}

// checkNote returns the size and the root of a signed checkpoint.
func checkNote(note, key string) (size int, root []byte, err error) {
	text, signature, found := strings.Cut(note, "\n\n")
	text += "\n"
	lines := strings.Split(text, "\n")
	fields := strings.SplitN(key, "+", 3)
	public, err := base64.StdEncoding.DecodeString(fields[2])
	if !found || len(lines) < 4 || err != nil || len(public) != 33 || public[0] != 1 {
		return 0, nil, errors.New("not a checkpoint, or not a key")
	}
	id := sha([]byte(fields[0]+"\n"), public)[:4]
	encoded, ours := strings.CutPrefix(strings.TrimSuffix(signature, "\n"), "\u2014 "+fields[0]+" ")
	sig, err := base64.StdEncoding.DecodeString(encoded)
	if !ours || err != nil || len(sig) != 68 || !bytes.Equal(sig[:4], id) || hex.EncodeToString(id) != fields[1] || lines[0] != fields[0] ||
		!ed25519.Verify(public[1:], []byte(text), sig[4:]) {
		return 0, nil, errors.New("the signature is not that of the key")
	}
	if size, err = strconv.Atoi(lines[1]); err != nil {
		return 0, nil, err
	}
	root, err = base64.StdEncoding.DecodeString(lines[2])
	return size, root, err
}

func checkProof(proof, key string) (leaf []byte, err error) {
	head, note, _ := strings.Cut(proof, "\n\n")
	lines := strings.Split(head, "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "extra ") || !strings.HasPrefix(lines[2], "index ") {
		return nil, errors.New("not a proof")
	}
	leaf, err = base64.StdEncoding.DecodeString(lines[1][len("extra "):])
	if err != nil {
		return nil, err
	}
	index, err := strconv.Atoi(lines[2][len("index "):])
	if err != nil {
		return nil, err
	}
	n, root, err := checkNote(note, key)
	if err != nil {
		return nil, err
	}
	h, i, s := sha([]byte{0}, leaf), index, n-1
	if index >= n {
		return nil, errors.New("the index is not in the tree")
	}
	for _, line := range lines[3:] {
		p, err := base64.StdEncoding.DecodeString(line)
		if err != nil || s == 0 {
			return nil, errors.New("too many hashes, or not a hash")
		}
		if i%2 == 1 || i == s {
			h = sha([]byte{1}, p, h)
			for i%2 == 0 && i != 0 {
				i, s = i/2, s/2
			}
		} else {
			h = sha([]byte{1}, h, p)
		}
		i, s = i/2, s/2
	}
	second := strings.SplitN(string(leaf), ",", 3)[1]
	_, position, _ := strings.Cut(second, ":")
	if s != 0 || !bytes.Equal(h, root) || position != strconv.Itoa(index+1) {
		return nil, errors.New("the hashes do not lead from the leaf to the root")
	}
	return leaf, nil
}

const sqlColumns = `select position::text, id, instance, delivery_id, type, coalesce(deployment, ''), attempt::text, actor,
	(extract(epoch from recorded_at) * 1000000)::bigint::text, data::text from events e order by e.position`

// The document is enough to check rows, stored hashes, checkpoints and proofs.
func TestDocument_IsEnough(t *testing.T) {
	ctx := testContext(t)
	f := newFixture(t)
	for n := range 23 {
		f.append(t, eventlog.Received{Event: "push", Ref: "refs/heads/caf\u00e9 <&> \u2028", Commit: fmt.Sprint(n)})
		f.append(t, eventlog.Failed{Error: "\x00 \xff , 3:", Step: ":"})
	}
	signed, _, err := f.signer(0).Sign(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := f.pool.Query(ctx, sqlColumns)
	if err != nil {
		t.Fatal(err)
	}
	var leaves [][]byte
	for rows.Next() {
		columns := make([]string, 10)
		to := make([]any, len(columns))
		for i := range columns {
			to[i] = &columns[i]
		}
		if err := rows.Scan(to...); err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leafOf(columns))
	}
	if rows.Err() != nil || len(leaves) != 46 {
		t.Fatalf("%d rows, %v", len(leaves), rows.Err())
	}
	for position := 1; position <= len(leaves); position++ {
		var stored []byte
		if err := f.pool.QueryRow(context.Background(), `select hashes from event_hashes where position = $1`, position).Scan(&stored); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(stored, storedHashes(leaves, position)) {
			t.Errorf("position %d: stored are other hashes than the document says", position)
		}
	}
	size, root, err := checkNote(string(signed), f.key.Public())
	if err != nil || size != len(leaves) || !bytes.Equal(root, rootOf(leaves)) {
		t.Errorf("signed are %d events and root %x, %v; it is %x", size, root, err, rootOf(leaves))
	}
	c, err := checkpoint.Open(signed, f.key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	for position := int64(1); position <= c.N; position++ {
		leaf, hashes, err := f.log.Prove(ctx, c.Tree, position)
		if err != nil {
			t.Fatal(err)
		}
		proof := string(checkpoint.Proof{Leaf: leaf, Index: position - 1, Hashes: hashes, Signed: signed}.Marshal())
		if got, err := checkProof(proof, f.key.Public()); err != nil || !bytes.Equal(got, leaves[position-1]) {
			t.Errorf("proof of %d: %v\n%s", position, err, proof)
		}
		wrong := strings.Replace(proof, "\nindex ", "\nindex 1", 1)
		if _, err := checkProof(wrong, f.key.Public()); err == nil {
			t.Errorf("an altered proof holds\n%s", wrong)
		}
	}
}
