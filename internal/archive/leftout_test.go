package archive

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
)

// A body that an import did not bring along is told from one that was deleted, at
// every journey and whatever is appended between.
func TestImport_BodiesThatWereLeftOut(t *testing.T) {
	t.Parallel()
	from := pgtest.Migrated(t)
	fill(t, from)
	bare, s := export(t, from, ExportOptions{})
	if s.LeftOut != 14 || s.Bodies != 0 {
		t.Errorf("exported %+v", s)
	}
	second := imported(t, bare)
	if v := verified(t, second); len(v.Faults) != 0 || v.LeftOut != 7 || v.LeftOutTo != 14 || v.Bodies != 0 {
		t.Errorf("after an import without bodies: %+v", v)
	}
	log := eventlog.Open(second, slog.New(slog.DiscardHandler))
	defer log.Close()
	d := delivery.Delivery{Salt: delivery.NewSalt(), Body: []byte("later")}
	if _, err := log.Append(t.Context(), eventlog.Group{
		Payload:     &eventlog.Payload{Digest: d.Digest(), Salt: d.Salt, Body: d.Body},
		Transitions: []eventlog.Transition{{Instance: "prod", DeliveryID: "later", Attempt: 1, Data: eventlog.Received{Event: "push", PayloadDigest: d.Digest(), PayloadSize: int64(len(d.Body))}}},
	}); err != nil {
		t.Fatal(err)
	}
	file, s := export(t, second, ExportOptions{Bodies: true})
	if s.LeftOut != 14 || s.Bodies != 1 {
		t.Errorf("exported %+v", s)
	}
	if checked, err := Check(bytes.NewReader(file)); err != nil || checked.LeftOut != 14 {
		t.Errorf("checked %+v, %v", checked, err)
	}
	third := imported(t, file)
	if v := verified(t, third); len(v.Faults) != 0 || v.LeftOut != 7 || v.LeftOutTo != 14 || v.Bodies != 1 {
		t.Errorf("after the next journey: %+v", v)
	}
	for _, c := range []struct{ what, sql, want string }{
		{"a body is deleted", "delete from payloads", "position 15: its body is missing, and was not redacted"},
		{"the record is gone", "delete from bodies_left_out", "position 1: its body is missing, and was not redacted"},
		{"the record is widened", "update bodies_left_out set position = 15", "position 15: its body is stored, though the import is said to have left out those up to position 15"},
		{"the record is past the end", "update bodies_left_out set position = 99", "an import is said to have left out the bodies up to position 99, but the log ends at 15"},
		{"there are two", "insert into bodies_left_out values (false, 3)", "2 imports are said to have left out bodies, but there can be only one"},
	} {
		pool := imported(t, file)
		spoil(t, pool, c.sql)
		v := verified(t, pool)
		var said []string
		for _, f := range v.Faults {
			said = append(said, f.String())
		}
		if !strings.Contains(strings.Join(said, "\n")+"\n", c.want+"\n") {
			t.Errorf("%s: %q", c.what, said)
		}
	}

	head := `{"format":"durhack-deployer-log","version":1,"instances":["prod","staging"],`
	for _, c := range []struct{ what, line string }{
		{"less than nothing", head + `"created":"2026-01-01T00:00:00Z","bodies":true,"bodies_after":-1}`},
		{"without bodies", head + `"created":"2026-01-01T00:00:00Z","bodies":false,"bodies_after":14}`},
		{"past the end", head + `"created":"2026-01-01T00:00:00Z","bodies":true,"bodies_after":16}`},
	} {
		_, rest, _ := bytes.Cut(file, []byte("\n"))
		var damaged *DamagedError
		if _, err := Check(strings.NewReader(c.line + "\n" + string(rest))); !errors.As(err, &damaged) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func imported(t *testing.T, file []byte) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Migrated(t)
	if _, err := Import(t.Context(), owner(t, pool), bytes.NewReader(file), ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	return pool
}

func verified(t *testing.T, pool *pgxpool.Pool) eventlog.Verified {
	t.Helper()
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	defer log.Close()
	v, err := log.Verify(t.Context(), eventlog.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// spoil does what only who takes the guards away can do.
// spoil changes the log, and makes the hashes again that are missing at its end.
func spoil(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	conn := owner(t, pool)
	err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `alter table payloads disable trigger all; alter table bodies_left_out disable trigger all; alter table payloads drop constraint payloads_salt_is_16_bytes;
			alter table events disable trigger all; alter table event_hashes disable trigger all; alter table log_head disable trigger all;
			alter table bodies_left_out drop constraint bodies_left_out_has_one_row; `+sql)
		if err != nil {
			return err
		}
		return samplelog.Rehash(t.Context(), tx)
	})
	if err != nil {
		t.Fatal(err)
	}
}
