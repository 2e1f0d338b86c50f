package mirror

import (
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

var sample = Entry{
	V: 1, Position: 7, EventID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", DeliveryID: "d-1", Cause: eventlog.TypeReplayed, Actor: "sam",
	Assignment: eventlog.Assignment{Deployment: "web", Attempt: 2, Order: eventlog.Order{Branch: "main", Commit: sha, Rule: "r", ConfigDigest: "c"}},
}

func TestEntryReadsBack(t *testing.T) {
	raw, err := sample.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(raw)
	if err != nil || got != sample {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	raw, err := sample.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"version":    {`"v":1`, `"v":2`},
		"delivery":   {`"d-1"`, `"../d-1"`},
		"deployment": {`"web"`, `"../web"`},
		"main queue": {`"web"`, `"main"`},
		"position":   {`"position":7`, `"position":0`},
		"attempt":    {`"attempt":2`, `"attempt":0`},
		"event":      {"01ARZ3NDEKTSV4RRFFQ69G5FAV", "../../01ARZ3NDEKTSV4RRFFQ69G5FAV"},
		"truncated":  {"}", ""},
	} {
		changed := strings.Replace(string(raw), change[0], change[1], 1)
		if changed == string(raw) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if e, err := Decode([]byte(changed)); err == nil {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
}

func FuzzDecode(f *testing.F) {
	raw, err := sample.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Decode(raw)
		if err != nil {
			return
		}
		if strings.ContainsAny(e.Name()+e.Deployment, "/\x00") {
			t.Fatalf("unsafe name in %+v", e)
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Decode(again); err != nil || back != e {
			t.Fatalf("%+v reads back as %+v, %v", e, back, err)
		}
	})
}
