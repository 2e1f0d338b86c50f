package eventlog

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

var update = flag.Bool("update", false, "write the golden files of the current version again")

var (
	someTime   = time.Date(2026, 3, 4, 5, 6, 7, 891_011_000, time.UTC)
	commitA    = strings.Repeat("a", 40)
	commitB    = strings.Repeat("b", 40)
	someDigest = strings.Repeat("0123456789abcdef", 4)
	exitCode   = 3
	someSteps  = []Step{{Name: "checkout", DurationMS: 15, Result: "ok"}, {Name: "build", DurationMS: 2700, Result: "failed"}}
	assignment = Assignment{Deployment: "web", Attempt: 2, Order: Order{Branch: "main", Commit: commitA, Rule: "branch main", ConfigDigest: someDigest, Forced: true}}
)

// examples has every field of every event set, version 1. The golden file of an
// event is what this very version of it stores: bytes that must stay readable for ever.
var examples = map[string]Data{
	"received.v1": Received{
		Event: "push", Ref: "refs/heads/main", Repository: "ducompsoc/durhack", Commit: commitA, HookID: "1234", ReceivedAt: someTime,
		PayloadDigest: someDigest, PayloadSize: 8192, ContentType: "application/json", Source: SourceGitHub, Entry: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
	},
	"redelivered.v1": Redelivered{
		Action: ActionRetried, Detail: "it had failed", ReceivedAt: someTime, Entry: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Deployments: []Assignment{assignment},
	},
	"forwarded.v1": Forwarded{Order: Order{Branch: "main", Commit: commitA, Rule: "branch main", ConfigDigest: someDigest, Forced: true}},
	"voided.v1":    Voided{Reason: ReasonSuperseded, Detail: "<b> & \x1b[31m\x00", SupersededBy: "d2", Commit: commitA},
	"started.v1": Started{
		Commit: commitA, PreviousCommit: commitB, Host: "web1", PID: 4711, Plan: []string{"checkout", "build"}, RunLog: "/var/lib/durhack-deployer/runs/web/d1-1.log",
	},
	"deployed.v1": Deployed{
		Commit: commitA, PreviousCommit: commitB, Steps: someSteps[:1], DurationMS: 2715, RunLogDigest: someDigest, RunLog: "/runs/web/d1-1.log",
	},
	"failed.v1": Failed{
		Commit: commitA, PreviousCommit: commitB, Step: "build", ExitCode: &exitCode, Signal: "SIGKILL", Error: "exit status 3",
		OutputTail: "line\nlast line\u2028\n", Steps: someSteps, DurationMS: 2715, RunLogDigest: someDigest, RunLog: "/runs/web/d1-1.log",
	},
	"interrupted.v1":        Interrupted{Detail: "the worker was gone", Then: "retry", Step: "build"},
	"replayed.v1":           Replayed{Reason: "the registry was down", Deployments: []Assignment{assignment}},
	"redacted.v1":           Redacted{Reason: "a token was pushed", PayloadDigests: []string{someDigest}},
	"pinned.v1":             Pinned{Commit: commitA, Reason: "the new one is slow"},
	"unpinned.v1":           Unpinned{Reason: "it was fixed"},
	"frozen.v1":             Frozen{Until: someTime, Reason: "the finals"},
	"thawed.v1":             Thawed{Reason: "they are over"},
	"canceled.v1":           Canceled{Reason: "the wrong branch"},
	"forwarded-override.v1": Forwarded{Order: Order{Branch: "main", Commit: commitA, Rule: "deploy command", ConfigDigest: someDigest, Override: true}},
	"forwarded-restores.v1": Forwarded{Order: Order{Branch: "main", Commit: commitA, Rule: "on_failure", ConfigDigest: someDigest, Restores: true}},
	"forwarded-before.v1":   Forwarded{Order: Order{Branch: "main", Commit: commitA, Rule: "branch main", ConfigDigest: someDigest, Before: commitB}},
	"forwarded-from.v1":     Forwarded{Order: Order{Branch: "main", Commit: commitA, Rule: "branch main", ConfigDigest: someDigest, ForcedFrom: commitB}},
	"redelivered-body.v1": Redelivered{
		Action: ActionIgnored, Detail: "it is live", ReceivedAt: someTime, Entry: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
		PayloadDigest: someDigest, PayloadSize: 8192, ContentType: "application/json",
	},
}

func goldenPath(name string) string { return filepath.Join("testdata", "golden", name+".json") }

func TestGoldenFilesAreStoredAndReadAsTheyAre(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	files, err := filepath.Glob(goldenPath("*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < len(examples) && !*update {
		t.Errorf("%d golden files for %d events", len(files), len(examples))
	}
	for name, data := range examples {
		t.Run(name, func(t *testing.T) {
			l := l
			if r, ok := data.(Redacted); ok {
				l = newLog(t) // where no other delivery has named the body before
				mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: name, Attempt: 1, Data: Received{PayloadDigest: r.PayloadDigests[0]}}))
			}
			e := mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: name, Attempt: 1, Data: data}))[0]
			if *update {
				if err := os.WriteFile(goldenPath(name), e.Data, 0o644); err != nil { // a fixture
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(goldenPath(name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(e.Data, golden) {
				t.Errorf("stored\n%s\nbut the golden file has\n%s", e.Data, golden)
			}
			read, err := l.Read(testContext(t), e.Position-1, 1)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read[0].Data, golden) || !bytes.Equal(all(t, l)[e.Position-1].Data, golden) {
				t.Errorf("read other bytes than were appended")
			}
			decoded, err := read[0].Decode()
			if err != nil {
				t.Fatal(err)
			}
			// NUL survives in the JSON; the column strings replace it.
			if !reflect.DeepEqual(decoded, data) {
				t.Errorf("decoded %+v, want %+v", decoded, data)
			}
		})
	}
}

// Spelling that our encoder would not choose must survive the table as well:
// the column is json, and jsonb would not do.
func TestDataIsReadByteForByte(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	raw := "{ \"v\":1,\n\t\"reason\" : \"\\u0000\\u00e9\u00e9\", \"reason\":\"twice\", \"n\": 1.0e+2 }"
	if err := appendRaw(t, pool, Event{Instance: "test", DeliveryID: "d", Type: TypeVoided, Data: []byte(raw)}); err != nil {
		t.Fatal(err)
	}
	if got := all(t, l)[0].Data; string(got) != raw {
		t.Errorf("read %q, stored %q", got, raw)
	}
	for e, err := range l.Find(testContext(t), Filter{}) {
		if err != nil || string(e.Data) != raw {
			t.Errorf("found %q, %v, stored %q", e.Data, err, raw)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range examples {
		b, err := Encode(data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data.EventType()), []byte(b))
	}
	f.Add("frozen", []byte(`{"v":1}`))
	f.Add("received", []byte(`{"v":2}`))
	f.Add("received", []byte(`[]`))
	f.Fuzz(func(t *testing.T, typ string, data []byte) {
		e := Event{Position: 7, Type: Type(typ), Data: data, Attempt: 1}
		decoded, err := e.Decode()
		if err != nil {
			if decoded != nil {
				t.Fatalf("Decode returned %+v and %v", decoded, err)
			}
			return
		}
		if decoded.EventType() != e.Type {
			t.Fatalf("Decode of %q returned a %s", typ, decoded.EventType())
		}
		// What could be read can be stored, and is then read as the same.
		r, err := encodeTransition(Transition{DeliveryID: "d", Data: decoded})
		if err != nil {
			t.Fatal(err)
		}
		again, err := Event{Type: e.Type, Data: r.data}.Decode()
		if err != nil || fmt.Sprintf("%+v", deref(again)) != fmt.Sprintf("%+v", deref(decoded)) {
			t.Fatalf("stored and read again: %+v, %v; want %+v", again, err, decoded)
		}
		if _, err := e.Assignments(); err != nil {
			t.Fatal(err)
		}
	})
}

// deref shows what the exit code points to.
func deref(d Data) any {
	if f, ok := d.(Failed); ok && f.ExitCode != nil {
		code := *f.ExitCode
		f.ExitCode = nil
		return []any{f, code}
	}
	return d
}
