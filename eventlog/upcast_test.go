package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// older is a vocabulary in which `interrupted` is at its version 3: version 1 had
// the detail under another name, and version 2 said "again" for "retry".
func older() vocabulary {
	v := slices.Clone(kinds)
	v.find(TypeInterrupted).upcasts = []upcast{
		func(data json.RawMessage) (json.RawMessage, error) {
			var old struct{ Why, Then, Step string }
			if err := json.Unmarshal(data, &old); err != nil {
				return nil, err
			}
			return json.Marshal(map[string]any{"v": 2, "detail": old.Why, "then": old.Then, "step": old.Step})
		},
		func(data json.RawMessage) (json.RawMessage, error) {
			var next Interrupted
			if err := json.Unmarshal(data, &next); err != nil {
				return nil, err
			}
			if next.Then == "again" {
				next.Then = "retry"
			}
			return v.encode(next)
		},
	}
	return v
}

func TestUpcast_OlderVersionsAreLedToTheCurrentOne(t *testing.T) {
	want := Interrupted{Detail: "gone", Then: "retry", Step: "build"}
	for _, data := range []string{
		`{"v":1,"why":"gone","then":"again","step":"build"}`,
		`{"v":2,"detail":"gone","then":"again","step":"build"}`,
		`{"v":3,"detail":"gone","then":"retry","step":"build"}`,
	} {
		e := Event{Position: 7, Type: TypeInterrupted, Data: json.RawMessage(data)}
		got, err := older().decode(e)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s was read as %+v, %v", data, got, err)
		}
		if string(e.Data) != data {
			t.Errorf("%s was changed into %s", data, e.Data)
		}
		// Appended again by a binary of today, it is the same transition.
		current, err := older().encode(want)
		if err != nil {
			t.Fatal(err)
		}
		if !older().same(e, current) {
			t.Errorf("%s is taken for another event than %s", data, current)
		}
		other, err := older().encode(Interrupted{Detail: "gone", Then: "fail", Step: "build"})
		if err != nil {
			t.Fatal(err)
		}
		if older().same(e, other) {
			t.Errorf("%s is taken for the same event as %s", data, other)
		}
	}
}

func TestUpcast_VersionsOutsideTheHistoryAreRefused(t *testing.T) {
	for _, c := range []struct {
		typ  Type
		data string
		want int
	}{
		{TypeInterrupted, `{"v":4}`, 4}, {TypeInterrupted, `{"v":0}`, 0}, {TypeInterrupted, `{}`, 0},
		{TypeInterrupted, `{"v":-1}`, -1}, {TypeStarted, `{"v":2}`, 2},
	} {
		_, err := older().decode(Event{Position: 7, Type: c.typ, Data: json.RawMessage(c.data)})
		var unknown *UnknownEventError
		if !errors.As(err, &unknown) || unknown.Version != c.want || unknown.Position != 7 {
			t.Errorf("%s %s: %v", c.typ, c.data, err)
		}
	}
	// An upcast that cannot read the data says at which position, and is no panic.
	_, err := older().decode(Event{Position: 7, Type: TypeInterrupted, Data: json.RawMessage(`{"v":1,"why":5}`)})
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		t.Errorf("got %v, want the error of the upcast", err)
	}
}

// A group that was appended by an older binary, and is appended again by a newer
// one after a crash, is the same group; with another content it is a conflict.
func TestRepeatedAcrossVersions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z]{0,5}`)
		old := map[string]any{"v": 1, "why": text.Draw(t, "why"), "then": rapid.SampledFrom([]string{"again", "fail"}).Draw(t, "then"), "step": text.Draw(t, "step")}
		raw, err := json.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		e := Event{Type: TypeInterrupted, Data: raw}
		decoded, err := older().decode(e)
		if err != nil {
			t.Fatal(err)
		}
		d := decoded.(Interrupted)
		if rapid.Bool().Draw(t, "changed") {
			d.Detail += "!"
		}
		again, err := older().encode(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := older().same(e, again), d.Detail == old["why"]; got != want {
			t.Fatalf("same(%s, %s) is %t", raw, again, got)
		}
	})
}

var goldenName = regexp.MustCompile(`^([a-z_]+)(?:-[a-z]+)?\.v([0-9]+)\.json$`)

// Every version that a release has ever stored has a golden file, and is still read.
func TestGolden_EveryVersionHasAFile(t *testing.T) {
	files, err := os.ReadDir(filepath.Join("testdata", "golden"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[Type]map[int]bool{}
	for _, file := range files {
		m := goldenName.FindStringSubmatch(file.Name())
		if m == nil {
			t.Errorf("%s is not named TYPE.vN.json or TYPE-WHAT.vN.json", file.Name())
			continue
		}
		version, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		typ := Type(m[1])
		if have[typ] == nil {
			have[typ] = map[int]bool{}
		}
		have[typ][version] = true
		data, err := os.ReadFile(filepath.Join("testdata", "golden", file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		e := Event{Position: 1, Type: typ, Attempt: 1, Data: data}
		decoded, err := e.Decode()
		if err != nil {
			t.Errorf("%s: %v", file.Name(), err)
			continue
		}
		lifted, err := kinds.lift(e)
		if err != nil {
			t.Fatal(err)
		}
		// What was read is all that the data hold: nothing is lost on the way.
		again, err := encodeTransition(Transition{DeliveryID: "d", Data: decoded})
		if err != nil {
			t.Fatal(err)
		}
		if !sameJSON(again.data, lifted) {
			t.Errorf("%s is read and stored again as\n%s, not\n%s", file.Name(), again.data, lifted)
		}
		if version == kinds.find(typ).version() && !bytes.Equal(lifted, data) {
			t.Errorf("%s is of the current version and was changed", file.Name())
		}
	}
	for _, typ := range Types() {
		for version := 1; version <= kinds.find(typ).version(); version++ {
			if !have[typ][version] {
				t.Errorf("version %d of %s has no golden file", version, typ)
			}
		}
		if len(have[typ]) != kinds.find(typ).version() {
			t.Errorf("%s has golden files of %d versions, but is at version %d", typ, len(have[typ]), kinds.find(typ).version())
		}
	}
}
