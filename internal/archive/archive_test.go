package archive

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// fill appends a few deliveries through the log's own way in.
func fill(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	defer log.Close()
	for i := range 7 {
		d := delivery.Delivery{Salt: delivery.NewSalt(), Body: fmt.Appendf(nil, "body %d \x00\xff\n", i)}
		id, instance := fmt.Sprintf("d%d", i), []string{"prod", "staging"}[i%2]
		payload := &eventlog.Payload{Digest: d.Digest(), Salt: d.Salt, Body: d.Body, ContentType: "application/json"}
		received := eventlog.Received{Event: "push", PayloadDigest: d.Digest(), PayloadSize: int64(len(d.Body)), ContentType: "application/json"}
		_, err := log.Append(t.Context(), eventlog.Group{Payload: payload, Transitions: []eventlog.Transition{
			{Instance: instance, DeliveryID: id, Attempt: 1, Actor: "o<c>\u2028\u009bt&\x1b", Data: received},
			{Instance: instance, DeliveryID: id, Deployment: "web", Attempt: 1, Actor: "octocat", Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main <&>\u2029"}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func owner(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if err := migrations.SetOwner(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

func export(t *testing.T, pool *pgxpool.Pool, o ExportOptions) ([]byte, Summary) {
	t.Helper()
	var b bytes.Buffer
	s, err := Export(t.Context(), pool, &b, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), s
}

// table reads all of a table as the bytes that Postgres prints.
func table(t *testing.T, conn *pgx.Conn, columns, name string) string {
	t.Helper()
	var text string
	q := fmt.Sprintf(`select coalesce(string_agg(r::text, e'\n' order by r::text), '') from (select %s from %s) r`, columns, name)
	if err := conn.QueryRow(t.Context(), q).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

const (
	eventColumns = "position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data::text"
	bodyColumns  = "digest, salt, content_type, body"
)

func TestALogIsTheSameAfterItsJourney(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Migrated(t), pgtest.Migrated(t)
	fill(t, from)
	file, exported := export(t, from, ExportOptions{Bodies: true})
	conn := owner(t, to)
	imported, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(imported, exported) {
		t.Errorf("imported %+v\nexported %+v", imported, exported)
	}
	if imported.Events != 14 || imported.Bodies != 7 || !reflect.DeepEqual(imported.Instances, []string{"prod", "staging"}) {
		t.Errorf("imported %+v", imported)
	}
	before := owner(t, from)
	for _, q := range [][2]string{{eventColumns, "public.events"}, {bodyColumns, "public.payloads"}, {"position, last_id", "public.log_head"}} {
		if was, is := table(t, before, q[0], q[1]), table(t, conn, q[0], q[1]); was != is || was == "" {
			t.Errorf("%s was\n%s\nand is\n%s", q[1], was, is)
		}
	}
	if checked, err := check(bytes.NewReader(file)); err != nil || !reflect.DeepEqual(checked, exported) {
		t.Errorf("checked %+v, %v", checked, err)
	}

	// It goes on, and it is not imported twice.
	log := eventlog.Open(to, slog.New(slog.DiscardHandler))
	defer log.Close()
	events, err := log.Append(t.Context(), eventlog.Group{Transitions: []eventlog.Transition{
		{Instance: "prod", DeliveryID: "next", Attempt: 1, Actor: "me", Data: eventlog.Received{Event: "push"}},
	}})
	if err != nil || events[0].Position != 15 {
		t.Errorf("append after the import: %+v, %v", events, err)
	}
	var full *NotEmptyError
	if _, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{}); !errors.As(err, &full) || full.Head != 15 || full.Bodies != 7 {
		t.Errorf("second import: %v", err)
	}
}

// Data need not be as this program writes it: what is stored is what counts.
func TestDataSurviveByteForByte(t *testing.T) {
	t.Parallel()
	text := rapid.SampledFrom([]string{`{"v":1}`, ` {"v":1}`, "{\"v\":1}\n", "{\r\n\t\"v\" : 1 , \"v\":1,\"n\":1.0e0}", `{"v":1,"x":"\ud800\u0000\/"}`,
		"{\"v\":1,\"x\":\"<&>\u2028\u009b\"}", "{\"v\":1,\"data\":null,\"data_raw\":\"x\"}", "{\"v\":1,\n\"data\":null}"})
	rapid.Check(t, func(t *rapid.T) {
		e := eventlog.Event{
			Position: 1, ID: "01J00000000000000000000000", Instance: "prod", DeliveryID: `,"data":null`, Type: eventlog.TypeReceived, Attempt: 1,
			Actor: rapid.StringMatching(`[ -~\x{80}-\x{2fff}]{0,20}|,"data":null`).Draw(t, "actor"), RecordedAt: time.Unix(1e9, 123456000).UTC(),
			Data: []byte(text.Draw(t, "data")),
		}
		if rapid.Bool().Draw(t, "deployed") {
			slug := "web"
			e.Deployment = &slug
		}
		line, err := appendEvent(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("more than one line: %q", line)
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, `{"format":%q,"version":1,"instances":["prod"],"created":"2026-01-01T00:00:00Z","bodies":true}`+"\n%s\n", Format, line)
		r := newReader(&b)
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		got, ok, err := r.event()
		if err != nil || !ok {
			t.Fatalf("%s\nis not read: %v", line, err)
		}
		if string(got.Data) != string(e.Data) || !reflect.DeepEqual(got, e) {
			t.Fatalf("got %+v\nwant %+v\n%q\n%q", got, e, got.Data, e.Data)
		}
	})
}

// Whatever happens to the file, it is noticed, and nothing of it is imported.
func TestNoDamageGoesUnnoticed(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Migrated(t), pgtest.Migrated(t)
	fill(t, from)
	file, _ := export(t, from, ExportOptions{Bodies: true})
	lines := bytes.SplitAfter(file, []byte("\n"))
	lines = lines[:len(lines)-1]
	conn := owner(t, to)
	// The line is named, rather than that the database refuses it at some time.
	var latin *DamagedError
	if _, err := check(bytes.NewReader(bytes.Replace(file, []byte("push"), []byte("p\xb5sh"), 1))); !errors.As(err, &latin) || latin.Line != 2 {
		t.Errorf("a line that is no text: %v", err)
	}
	imports := 0
	rapid.Check(t, func(t *rapid.T) {
		var damaged []byte
		pick := func(label string) int { return rapid.IntRange(0, len(lines)-1).Draw(t, label) }
		with := func(change func(l [][]byte) [][]byte) []byte {
			return bytes.Join(change(append([][]byte{}, lines...)), nil)
		}
		switch rapid.SampledFrom([]string{"flip", "cut", "drop", "double", "swap", "insert"}).Draw(t, "damage") {
		case "flip":
			at := rapid.OneOf(rapid.IntRange(0, len(file)-1), rapid.IntRange(len(file)-len(lines[len(lines)-1]), len(file)-1)).Draw(t, "at")
			damaged = bytes.Clone(file)
			damaged[at] ^= rapid.OneOf(rapid.Just(byte(0x20)), rapid.ByteRange(1, 255)).Draw(t, "bits")
		case "cut":
			damaged = file[:rapid.IntRange(0, len(file)-1).Draw(t, "to")]
		case "drop":
			i := pick("line")
			damaged = with(func(l [][]byte) [][]byte { return append(l[:i], l[i+1:]...) })
		case "double":
			i := pick("line")
			damaged = with(func(l [][]byte) [][]byte { return append(l[:i+1], lines[i:]...) })
		case "swap":
			i, j := pick("one"), pick("other")
			damaged = with(func(l [][]byte) [][]byte { l[i], l[j] = l[j], l[i]; return l })
		case "insert":
			i := pick("line")
			damaged = with(func(l [][]byte) [][]byte {
				return append(append(l[:i:i], []byte(rapid.SampledFrom([]string{"\n", "{}\n", " ", "\x00"}).Draw(t, "text"))), lines[i:]...)
			})
		}
		if bytes.Equal(damaged, file) {
			return
		}
		_, err := check(bytes.NewReader(damaged))
		var de *DamagedError
		if !errors.As(err, &de) || de.Line < 1 {
			t.Fatalf("%v\n%s", err, damaged)
		}
		if imports++; imports > 25 { // each is a transaction on a real server
			return
		}
		if _, err := Import(context.Background(), conn, bytes.NewReader(damaged), ImportOptions{}); !errors.As(err, &de) {
			t.Fatalf("import: %v", err)
		}
	})
	if left := table(t, conn, eventColumns, "public.events") + table(t, conn, bodyColumns, "public.payloads"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	if _, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{}); err != nil {
		t.Errorf("import after all that: %v", err)
	}
}

func TestACheckpointMustBeOfThisLog(t *testing.T) {
	t.Parallel()
	from := pgtest.Migrated(t)
	fill(t, from)
	sign := func(shift int64) ExportOptions {
		return ExportOptions{Checkpoint: func(_ context.Context, size int64, root [32]byte) (string, error) {
			return fmt.Sprintf("durhack-deployer/prod\n%d\n%s\n\nsignature\n", size+shift, base64.StdEncoding.EncodeToString(root[:])), nil
		}}
	}
	file, s := export(t, from, sign(0))
	if checked, err := check(bytes.NewReader(file)); err != nil || !strings.HasSuffix(checked.Checkpoint, "\n\nsignature\n") || checked.Root != s.Root {
		t.Errorf("%+v, %v", checked, err)
	}
	file, _ = export(t, from, sign(1))
	if _, err := check(bytes.NewReader(file)); err == nil || !strings.Contains(err.Error(), "its checkpoint is of another log") {
		t.Errorf("a checkpoint of another size: %v", err)
	}
	// Its signature is the caller's to judge, and the last word.
	file, _ = export(t, from, sign(0))
	unknown := errors.New("signed by a key that is not known")
	conn := owner(t, pgtest.Migrated(t))
	if _, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{Checkpoint: func(string) error { return unknown }}); !errors.Is(err, unknown) {
		t.Errorf("import: %v", err)
	}
	if left := table(t, conn, eventColumns, "public.events"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

func TestAnEmptyLog(t *testing.T) {
	t.Parallel()
	file, s := export(t, pgtest.Migrated(t), ExportOptions{Bodies: true})
	if s.Events != 0 || bytes.Count(file, []byte("\n")) != 2 {
		t.Errorf("%+v\n%s", s, file)
	}
	conn := owner(t, pgtest.Migrated(t))
	for range 2 { // it is still empty after the first
		if _, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// The tree is that of RFC 6962: computed here from its recursive definition.
func TestTreeIsThatOfTheRFC(t *testing.T) {
	t.Parallel()
	var leaves [][32]byte
	var tr tree
	for n := range 70 {
		if got, want := tr.root(), (&model{leaves}).hash(); got != want {
			t.Fatalf("root of %d leaves is %x, want %x", n, got, want)
		}
		e := eventlog.Event{Position: int64(n + 1), Data: fmt.Appendf(nil, `{"v":%d}`, n)}
		tr.add(&e)
		leaves = append(leaves, leafOf(&e))
	}
}

// check reads an archive to its end and says what it holds, without a database.
func check(from io.Reader) (Summary, error) {
	r := newReader(from)
	if err := r.start(); err != nil {
		return Summary{}, err
	}
	for more := true; more; {
		var err error
		if _, more, err = r.event(); err != nil {
			return Summary{}, err
		}
	}
	for more := true; more; {
		var err error
		if _, more, err = r.body(); err != nil {
			return Summary{}, err
		}
	}
	return r.finish()
}
