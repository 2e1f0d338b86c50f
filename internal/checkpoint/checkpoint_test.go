package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

func newKey(t testing.TB, origin string) *Key {
	t.Helper()
	_, k, err := Generate(origin)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeys(t *testing.T) {
	private, k, err := Generate(Origin("deploy.example.com:8443", "www 1+"))
	if err != nil {
		t.Fatal(err)
	}
	if k.Name() != "deploy.example.com:8443/durhack-deployer/www-1-" || Origin("", "a") != "durhack-deployer/a" {
		t.Errorf("origin %q", k.Name())
	}
	if shown := fmt.Sprintf("%v %+v %s", k, k, k); strings.Contains(shown, "PRIVATE") || !strings.HasPrefix(shown, k.Public()) {
		t.Errorf("printing a key shows %s", shown)
	}
	file := filepath.Join(t.TempDir(), "signer.key")
	if _, err := Load(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load what is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte(private+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(file)
	if err != nil || again.Public() != k.Public() {
		t.Fatalf("loaded %v, %v", again, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Errorf("load a key that others may read: %v", err)
	}
	for name, text := range map[string]string{
		"nothing": "", "the verifier key": k.Public(), "cut": private[:len(private)-4], "of another name": strings.Replace(private, "www", "xxx", 1),
		"many lines": private + "\n" + private,
	} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%s was read as a key", name)
		} else if strings.Contains(err.Error(), private[len(private)-20:]) {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
	if _, err := ParseVerifier(private); err == nil {
		t.Error("a private key was read as a verifier key")
	}
}

func TestCheckpoints(t *testing.T) {
	k, other := newKey(t, "example.com/log"), newKey(t, "example.com/log")
	c := Checkpoint{"example.com/log", tlog.Tree{N: 42, Hash: tlog.RecordHash([]byte("x"))}}
	signed, err := c.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	want := "example.com/log\n42\n" + c.Hash.String() + "\n\n\u2014 example.com/log "
	if !strings.HasPrefix(string(signed), want) {
		t.Errorf("signed\n%s\nwant it to begin with\n%s", signed, want)
	}
	if got, err := Open(signed, k.Verifier()); err != nil || got != c {
		t.Errorf("opened %+v, %v", got, err)
	}
	if got, err := Open(signed, other.Verifier(), k.Verifier()); err != nil || got != c {
		t.Errorf("opened with one of two keys: %+v, %v", got, err)
	}
	if got, err := Unverified(signed); err != nil || got != c {
		t.Errorf("read %+v, %v", got, err)
	}
	if _, err := Open(signed, other.Verifier()); err == nil {
		t.Error("opened with another key")
	}
	if _, err := Open(signed); err == nil {
		t.Error("opened with no key")
	}
	if _, err := (Checkpoint{Origin: "example.com/other", Tree: c.Tree}).Sign(k); err == nil {
		t.Error("signed for another log")
	}
	// A key that we trust for its own log does not vouch for another one's.
	foreign, err := note.Sign(&note.Note{Text: strings.Replace(c.text(), "example.com/log", "example.com/other", 1)}, k.signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(foreign, k.Verifier()); err == nil {
		t.Error("opened a checkpoint of another origin than its signature's")
	}
	// Extension lines are for others; other text is refused, even if it is signed.
	for text, ok := range map[string]bool{
		c.text() + "extension\n": true, "example.com/log\n042\n" + c.Hash.String() + "\n": false, "example.com/log\n-1\n" + c.Hash.String() + "\n": false,
		"example.com/log\n42\nAAAA\n": false, "example.com/log\n42\n": false, "hello\n": false, "example.com/log\n99999999999999999999\n" + c.Hash.String() + "\n": false,
	} {
		signed, err := note.Sign(&note.Note{Text: text}, k.signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(signed, k.Verifier()); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	for altered := range everyFlip(signed) {
		if got, err := Open(altered, k.Verifier()); err == nil {
			t.Errorf("opened %+v from\n%s", got, altered)
		}
	}
}

// everyFlip yields text with one bit turned, for each bit. What it yields is
// overwritten by the next.
func everyFlip(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		altered := bytes.Clone(text)
		for i := range altered {
			for bit := range 8 {
				altered[i] ^= 1 << bit
				if !yield(altered) {
					return
				}
				altered[i] = text[i]
			}
		}
	}
}

// memory is a tree in memory.
type memory struct {
	events []eventlog.Event
	stored []tlog.Hash
}

func (m *memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, m.stored[i])
	}
	return out, nil
}

func (m *memory) add(t testing.TB, e eventlog.Event) {
	t.Helper()
	n := int64(len(m.events))
	e.Position = n + 1
	hashes, err := tlog.StoredHashes(n, eventlog.AppendLeaf(nil, &e), m)
	if err != nil {
		t.Fatal(err)
	}
	m.events, m.stored = append(m.events, e), append(m.stored, hashes...)
}

func (m *memory) prove(t rapid.TB, k *Key, size, position int64) Proof {
	t.Helper()
	root, err := tlog.TreeHash(size, m)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := (Checkpoint{k.Name(), tlog.Tree{N: size, Hash: root}}).Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := tlog.ProveRecord(size, position-1, m)
	if err != nil {
		t.Fatal(err)
	}
	return Proof{eventlog.AppendLeaf(nil, &m.events[position-1]), position - 1, hashes, signed}
}

func sampleTree(t testing.TB) *memory {
	m := &memory{}
	for n := range 40 {
		m.add(t, eventlog.Event{
			ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Instance: "test", DeliveryID: fmt.Sprint("d", n), Type: eventlog.TypeVoided, Attempt: 1,
			Actor: "ann", RecordedAt: time.UnixMicro(int64(n)).UTC(), Data: []byte(`{"v":1}`),
		})
	}
	return m
}

// A proof holds from its text alone, and no altered one does.
func TestProofs(t *testing.T) {
	k, other := newKey(t, "example.com/log"), newKey(t, "example.com/log")
	m := sampleTree(t)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 40).Draw(t, "size")
		position := rapid.Int64Range(1, size).Draw(t, "position")
		p := m.prove(t, k, size, position)
		text := p.Marshal()
		parsed, err := ParseProof(text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(parsed.Marshal(), text) {
			t.Fatalf("read again it is\n%s\nnot\n%s", parsed.Marshal(), text)
		}
		e, c, err := parsed.Check(k.Verifier())
		if err != nil || e.Position != position || e.DeliveryID != m.events[position-1].DeliveryID || c.N != size {
			t.Fatalf("proved %+v in %+v, %v", e, c, err)
		}
		if _, _, err := parsed.Check(other.Verifier()); err == nil {
			t.Fatal("holds by another key")
		}
	})
	for altered := range everyFlip(m.prove(t, k, 40, 7).Marshal()) {
		if p, err := ParseProof(altered); err == nil {
			if e, _, err := p.Check(k.Verifier()); err == nil {
				t.Errorf("an altered proof proves %+v\n%s", e, altered)
			}
		}
	}
}

// A log that holds, at one place, the leaf of another place proves nothing.
func TestProofOfAMisplacedLeaf(t *testing.T) {
	k := newKey(t, "example.com/log")
	m := sampleTree(t)
	p := m.prove(t, k, 40, 7)
	m.events[7].Position = 7 // the event after it says that it is at 7, too
	wrong := &memory{}
	for _, e := range m.events {
		leaf := eventlog.AppendLeaf(nil, &e)
		hashes, err := tlog.StoredHashes(int64(len(wrong.events)), leaf, wrong)
		if err != nil {
			t.Fatal(err)
		}
		wrong.events, wrong.stored = append(wrong.events, e), append(wrong.stored, hashes...)
	}
	if _, _, err := p.Check(k.Verifier()); err != nil {
		t.Fatal(err)
	}
	if e, _, err := wrong.prove(t, k, 40, 8).Check(k.Verifier()); err == nil || !strings.Contains(err.Error(), "position 7") {
		t.Errorf("proved %+v, %v", e, err)
	}
}

func FuzzParseProof(f *testing.F) {
	k := newKey(f, "example.com/log")
	m := sampleTree(f)
	f.Add(m.prove(f, k, 40, 7).Marshal())
	f.Add(m.prove(f, k, 1, 1).Marshal())
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\n"))
	v := k.Verifier()
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseProof(text)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), text) {
			t.Fatalf("read again it is\n%q\nnot\n%q", p.Marshal(), text)
		}
		_, _, _ = p.Check(v) // must not panic
	})
}
