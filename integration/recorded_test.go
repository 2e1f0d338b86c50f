package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/archive"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/migrations"
	"github.com/ducompsoc/durhack-deployer/projections"
)

var (
	update = flag.Bool("update", false, "write what recorded logs give into their golden files")
	record = flag.Bool("record", false, "record the logs of testdata again; implies -update")
)

// recordings are what happened in testdata/NAME.jsonl: `go test ./integration
// -run Recorded -record` makes the logs again. It need not be done for a change
// of the program: that old logs give what they gave is the point of them.
var recordings = map[string]func(t *testing.T) *site{
	"happy":        recordHappy,
	"failure":      recordFailure,
	"interruption": recordInterruption,
	"superseded":   recordSuperseded,
	"redelivery":   recordRedelivery,
}

// golden is what a log says, as far as the read models tell it.
type golden struct {
	Accounting  projections.Accounting
	Deployments []projections.Deployment
	Deliveries  []projections.Delivery
	Attempts    []projections.Attempt
}

// Logs that this program wrote in the past are imported, folded, built into
// tables and exported again; what comes out is what came out then.
func TestRecordedLogs(t *testing.T) {
	t.Parallel()
	for name, play := range recordings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("testdata", name+".jsonl")
			if *record {
				s := play(t)
				s.verified()
				if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				here, err := os.Getwd()
				if err != nil {
					t.Fatal(err)
				}
				s.must("log", "export", filepath.Join(here, file))
			}
			log, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			replayRecorded(t, log, filepath.Join("testdata", name+".golden.json"))
		})
	}
}

func replayRecorded(t *testing.T, recorded []byte, file string) {
	pool := pgtest.Migrated(t)
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if err := migrations.SetOwner(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	imported, err := archive.Import(t.Context(), conn, bytes.NewReader(recorded), archive.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	defer log.Close()
	state, err := projections.FoldAt(log.Find(t.Context(), eventlog.Filter{}))
	if err != nil {
		t.Fatal(err)
	}
	is := golden{state.Accounting("test"), state.Deployments(""), state.Deliveries(""), state.Attempts("")}
	if len(is.Accounting.Breaches) > 0 {
		t.Errorf("breaches: %q", is.Accounting.Breaches)
	}
	text, err := json.MarshalIndent(is, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update || *record {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("the log does not give what %s has, at:\n%s", file, firstDifference(string(text), string(want)))
	}

	models := projections.New(pool, log, slog.New(slog.DiscardHandler))
	if err := models.Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	tables, err := models.Deployments(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(tables, is.Deployments) {
		t.Errorf("the tables have\n%+v\nthe fold has\n%+v", tables, is.Deployments)
	}
	if differences, err := models.Verify(t.Context()); err != nil || len(differences) > 0 {
		t.Errorf("the tables differ from the fold: %v, %v", differences, err)
	}

	var again bytes.Buffer
	exported, err := archive.Export(t.Context(), log, &again, archive.ExportOptions{Bodies: true})
	if err != nil {
		t.Fatal(err)
	}
	if exported.Root != imported.Root || events(again.Bytes()) != events(recorded) {
		t.Error("the log is another one after its export")
	}
}

// events are the lines of an archive between the first, which has a date in it,
// and the last, whose hash is of that, too.
func events(file []byte) string {
	_, rest, _ := strings.Cut(string(file), "\n")
	return rest[:strings.LastIndex(strings.TrimSuffix(rest, "\n"), "\n")]
}

func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return strings.Join(a[max(0, i-3):min(len(a), i+3)], "\n")
		}
	}
	return "the end"
}
