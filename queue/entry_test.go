package queue

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
)

const goodULID = "01JD9Z0M7T8Q2K5V6W3X4Y1ZAB"

func TestParseName(t *testing.T) {
	for name, ok := range map[string]bool{
		goodULID + "_0bd0a0c0-8b0e-11f0-9a3f.json":         true,
		goodULID + "_a.json":                               true,
		goodULID + "_" + strings.Repeat("a", 64) + ".json": true,
		"00000000000000000000000000_a.json":                true,
		goodULID + "_" + strings.Repeat("a", 65) + ".json": false,
		goodULID + "_.json":                                false,
		goodULID + ".json":                                 false,
		goodULID + "_a":                                    false,
		goodULID + "_a.JSON":                               false,
		goodULID + "_a_b.json":                             false,
		goodULID + "_a.b.json":                             false,
		goodULID + "_a\n.json":                             false,
		goodULID + "_../../x.json":                         false,
		strings.ToLower(goodULID) + "_a.json":              false,
		"8" + goodULID[1:] + "_a.json":                     false,
		"7ZZZZZZZZZZZZZZZZZZZZZZZZZ_a.json":                false,
		"7ZZZZZZZZZZZZZZZZZZZZZZZZY_a.json":                true,
		strings.Replace(goodULID, "M", "U", 1) + "_a.json": false,
		strings.Replace(goodULID, "M", "/", 1) + "_a.json": false,
		"":                        false,
		".json":                   false,
		"_a.json":                 false,
		"quarantine":              false,
		goodULID + "_a.json.json": false,
	} {
		e, err := ParseName(name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err == nil {
			if again, err := NewEntry(e.ID, e.DeliveryID); err != nil || again != e {
				t.Errorf("%q: written as %+v, %v", name, again, err)
			}
		}
	}
}

func TestNewEntryRefuses(t *testing.T) {
	for _, id := range []string{"", "a b", "a/b", "../x", "a\x00", "\u00e4", strings.Repeat("a", 65)} {
		if _, err := NewEntry(ulid.ULID{1}, id); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := NewEntry(lastULID, "a"); err == nil {
		t.Error("an entry with no successor")
	}
}

// FuzzEntry puts a file of any name and content into a queue: the reader gives
// back its bytes or an error, and the watcher either takes it as an entry or
// moves it away, and never anything outside.
func FuzzEntry(f *testing.F) {
	f.Add(goodULID+"_a.json", []byte("{}"))
	f.Add(goodULID+"_a.json", []byte{})
	f.Add("x.reason", []byte("x"))
	f.Add(".hidden", []byte("x"))
	f.Add("..", []byte("x"))
	f.Add("../x.json", []byte("x"))
	f.Add(strings.Repeat("x", 255), []byte("x"))
	f.Add("quarantine", []byte("x"))
	f.Add("\x1b[31m\n", []byte("x"))
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		root := t.TempDir()
		outside := filepath.Join(root, "x.json")
		if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, filepath.Join(root, "q"), unsynced, func(o *options) {
			o.hints = func(string) (*hints, error) { return nil, errors.New("none") }
		})
		entry, parsed := ParseName(name)
		if parsed == nil {
			if again, err := NewEntry(entry.ID, entry.DeliveryID); err != nil || again.Name != name {
				t.Fatalf("%q is written as %q, %v", name, again.Name, err)
			}
		}
		if strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." {
			for _, err := range []error{errOf(q.Read(Entry{Name: name})), q.Remove(Entry{Name: name}), q.Quarantine(Entry{Name: name}, nil)} {
				if err == nil {
					t.Errorf("%q was taken for a name", name)
				}
			}
			if b, err := os.ReadFile(outside); err != nil || string(b) != "outside" {
				t.Fatalf("reached outside: %q, %v", b, err)
			}
			return
		}
		if err := os.WriteFile(filepath.Join(q.Dir(), name), body, 0o600); err != nil {
			return // the system does not take the name
		}
		b, err := q.Read(Entry{Name: name})
		if (err == nil) != (parsed == nil) || err == nil && string(b) != string(body) {
			t.Fatalf("%q: read %q, %v", name, b, err)
		}
		w := watch(t, q)
		pending := w.Pending()
		if (len(pending) == 1) != (parsed == nil) {
			t.Fatalf("%q: pending %v", name, pending)
		}
		if hidden(name) || name == QuarantineDir {
			return
		}
		if parsed == nil {
			if err := w.Quarantine(entry, errors.New("it does not decode")); err != nil {
				t.Fatal(err)
			}
		}
		jailed, err := q.Quarantined()
		if err != nil || len(jailed) != 1 {
			t.Fatalf("%q: quarantined %q, %v", name, jailed, err)
		}
		if got, err := os.ReadFile(filepath.Join(q.Dir(), QuarantineDir, jailed[0])); err != nil || !slices.Equal(got, body) {
			t.Fatalf("%q: the quarantine holds %q, %v", name, got, err)
		}
		if _, err := os.Stat(filepath.Join(q.Dir(), QuarantineDir, jailed[0]+reasonSuffix)); err != nil {
			t.Fatal(err)
		}
	})
}

func errOf[T any](_ T, err error) error { return err }
