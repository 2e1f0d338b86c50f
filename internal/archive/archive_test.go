package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
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
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	defer log.Close()
	s, err := Export(t.Context(), log, &b, o)
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

func TestImport_LogIsTheSameAfterItsJourney(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Migrated(t), pgtest.Migrated(t)
	fill(t, from)
	file, exported := export(t, from, ExportOptions{Bodies: true})
	conn := owner(t, to)
	// A follower that ran on the empty log must not tell of what is imported.
	if _, err := conn.Exec(t.Context(), "insert into outbox_positions values ('reporter', 'prod', 0, 'me', now())"); err != nil {
		t.Fatal(err)
	}
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
	if left := table(t, conn, "*", "public.outbox_positions"); left != "" {
		t.Errorf("the follower's position is still %s", left)
	}
	before := owner(t, from)
	for _, q := range [][2]string{{eventColumns, "public.events"}, {bodyColumns, "public.payloads"}, {"position, last_id", "public.log_head"}} {
		if was, is := table(t, before, q[0], q[1]), table(t, conn, q[0], q[1]); was != is || was == "" {
			t.Errorf("%s was\n%s\nand is\n%s", q[1], was, is)
		}
	}
	if checked, err := Check(bytes.NewReader(file)); err != nil || !reflect.DeepEqual(checked, exported) {
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
func TestImport_DataSurviveByteForByte(t *testing.T) {
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
		var got eventlog.Event
		if err := r.events(func(e *eventlog.Event) error { got = *e; return io.EOF }); !errors.Is(err, io.EOF) {
			t.Fatalf("%s\nis not read: %v", line, err)
		}
		if string(got.Data) != string(e.Data) || !reflect.DeepEqual(got, e) {
			t.Fatalf("got %+v\nwant %+v\n%q\n%q", got, e, got.Data, e.Data)
		}
	})
}

// Whatever happens to the file, it is noticed, and nothing of it is imported.
func TestImport_NoDamageGoesUnnoticed(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Migrated(t), pgtest.Migrated(t)
	fill(t, from)
	file, _ := export(t, from, ExportOptions{Bodies: true})
	lines := bytes.SplitAfter(file, []byte("\n"))
	lines = lines[:len(lines)-1]
	conn := owner(t, to)
	// The line is named, rather than that the database refuses it at some time.
	var latin *DamagedError
	if _, err := Check(bytes.NewReader(bytes.Replace(file, []byte("push"), []byte("p\xb5sh"), 1))); !errors.As(err, &latin) || latin.Line != 2 {
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
		_, err := Check(bytes.NewReader(damaged))
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

// kept signs the log as it is, as the signer does.
func kept(t *testing.T, pool *pgxpool.Pool, shift int64) []byte {
	t.Helper()
	_, key, err := checkpoint.Generate("durhack-deployer/prod")
	if err != nil {
		t.Fatal(err)
	}
	tree := verified(t, pool).Tree
	tree.N += shift
	signed, err := checkpoint.Checkpoint{Origin: key.Name(), Tree: tree}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestArchiveCarriesTheKeptCheckpoint(t *testing.T) {
	t.Parallel()
	from := pgtest.Migrated(t)
	fill(t, from)
	signed := kept(t, from, 0)
	log := eventlog.Open(from, slog.New(slog.DiscardHandler))
	defer log.Close()
	if _, err := log.Append(t.Context(), eventlog.Group{Transitions: []eventlog.Transition{{Instance: "prod", DeliveryID: "unsigned", Data: eventlog.Received{Event: "ping"}}}}); err != nil {
		t.Fatal(err)
	}
	file, s := export(t, from, ExportOptions{Checkpoint: signed})
	if s.Events != 15 || s.Signed != 14 || s.Checkpoint != string(signed) {
		t.Errorf("exported %+v", s)
	}
	if checked, err := Check(bytes.NewReader(file)); err != nil || !reflect.DeepEqual(checked, s) {
		t.Errorf("%+v, %v", checked, err)
	}
	// One of another log is neither carried nor read.
	other := pgtest.Migrated(t)
	fill(t, other)
	for what, foreign := range map[string][]byte{"position 14: the events up to here": kept(t, other, 0), "broken at position 16: the log ends before it": kept(t, from, 3)} {
		if _, err := Export(t.Context(), log, io.Discard, ExportOptions{Checkpoint: foreign}); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("exported with it: %v, want %q", err, what)
		}
	}
	for line, foreign := range map[int64][]byte{15: kept(t, other, 0), 17: kept(t, from, 3)} {
		text, err := marshal(string(foreign))
		if err != nil {
			t.Fatal(err)
		}
		was, err := marshal(string(signed))
		if err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, err := Check(bytes.NewReader(bytes.Replace(file, was, text, 1))); !errors.As(err, &damaged) || damaged.Line != line {
			t.Errorf("read with it: %v, want line %d", err, line)
		}
	}
	// Its signature is the caller's to judge.
	unknown := errors.New("signed by a key that is not known")
	conn := owner(t, pgtest.Migrated(t))
	if _, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{Checkpoint: func(string) error { return unknown }}); !errors.Is(err, unknown) {
		t.Errorf("import: %v", err)
	}
	if left := table(t, conn, eventColumns, "public.events"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A database that keeps something else than what it was given imports nothing.
func TestImport_ComparesWhatIsStored(t *testing.T) {
	t.Parallel()
	from := pgtest.Migrated(t)
	fill(t, from)
	file, _ := export(t, from, ExportOptions{Bodies: true})
	for name, sql := range map[string]string{
		"event": "create function f() returns trigger language plpgsql as $$ begin new.actor := 'eve'; return new; end $$; create trigger t before insert on events for each row when (new.position = 5) execute function f()",
		"hash":  "create function f() returns trigger language plpgsql as $$ begin return null; end $$; create trigger t before insert on event_hashes for each row when (new.position = 5) execute function f()",
	} {
		conn := owner(t, pgtest.Migrated(t))
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(t.Context(), conn, bytes.NewReader(file), ImportOptions{}); err == nil || !strings.Contains(err.Error(), "position 5: the database holds something else") {
			t.Errorf("%s: imported, %v", name, err)
		}
		if left := table(t, conn, eventColumns, "public.events"); left != "" {
			t.Errorf("left behind: %s", left)
		}
	}
}

// A log that is not what was appended is not exported as if it were.
func TestExportRefusesWhatWasChanged(t *testing.T) {
	t.Parallel()
	const rehash = "; delete from event_hashes" // spoil makes them again
	for name, c := range map[string]struct{ sql, want string }{
		"row":             {"update events set actor = 'eve' where position = 4", "position 4: it was changed"},
		"row and hashes":  {"update events set actor = 'eve' where position = 4" + rehash, "position 14: the events up to here are not those of the checkpoint"},
		"last row":        {"update events set actor = 'eve' where position = 14", "position 14: "},
		"hash":            {"update event_hashes set hashes = set_byte(hashes, 0, 255 - get_byte(hashes, 0)) where position = 7", "position 7: it was changed"},
		"end cut off":     {"delete from events where position > 9; delete from event_hashes where position > 9; update log_head set position = 9", "position 10: the log ends before it"},
		"row gone":        {"delete from events where position = 5", "position 5: the row is missing"},
		"time":            {"update events set recorded_at = recorded_at - interval '1 day' where position = 9" + rehash, "position 9: its time is before"},
		"body":            {"update payloads set body = 'x' where digest = (select event_log_body(data) from events where position = 1)", "position 1: its body or its salt was changed"},
		"body into salt":  {"update payloads set salt = salt || body, body = '' where digest = (select event_log_body(data) from events where position = 1)", "position 1: the salt of its body has 26 bytes"},
		"content type":    {"update payloads set content_type = 'x' where digest = (select event_log_body(data) from events where position = 1)", "position 1: the content type of its body is"},
		"body gone":       {"delete from payloads where digest = (select event_log_body(data) from events where position = 1)", "position 1: its body is missing"},
		"body of nothing": {"insert into payloads values (encode(sha256('0123456789abcdefx'), 'hex'), '0123456789abcdef', '', 'x')", "no event names it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Migrated(t)
			fill(t, pool)
			signed := kept(t, pool, 0)
			spoil(t, pool, c.sql)
			log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
			defer log.Close()
			if _, err := Export(t.Context(), log, io.Discard, ExportOptions{Bodies: true, Checkpoint: signed}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("exported: %v, want %q", err, c.want)
			}
		})
	}
}

// Anyone who changes a file can make its sums again. A file that an export would
// not have written is still refused.
func TestImportTakesOnlyWhatAnExportWrites(t *testing.T) {
	t.Parallel()
	from := pgtest.Migrated(t)
	fill(t, from)
	file, _ := export(t, from, ExportOptions{Bodies: true})
	lines := strings.Split(strings.TrimSuffix(string(file), "\n"), "\n")
	replace := func(line int, pairs ...string) func(l []string) []string {
		return func(l []string) []string {
			was := l[line-1]
			if l[line-1] = strings.NewReplacer(pairs...).Replace(was); l[line-1] == was {
				t.Fatalf("nothing to replace in %s", was)
			}
			return l
		}
	}
	bodyLine := func(salt, body, contentType string) string {
		sum := sha256.Sum256([]byte(salt + body))
		return fmt.Sprintf(`{"digest":%q,"content_type":%q,"salt":%q,"body":%q}`, hex.EncodeToString(sum[:]), contentType,
			base64.StdEncoding.EncodeToString([]byte(salt)), base64.StdEncoding.EncodeToString([]byte(body)))
	}
	for name, c := range map[string]struct {
		change func(l []string) []string
		line   int64
		want   string
	}{
		"nothing":            {func(l []string) []string { return l }, 0, ""},
		"a key twice":        {replace(2, `"actor":`, `"actor":"eve","actor":`), 2, "not written as"},
		"other order":        {replace(3, `,"attempt":1,"actor":"octocat"`, `,"actor":"octocat","attempt":1`), 3, "not written as"},
		"a key in capitals":  {replace(3, `"actor"`, `"Actor"`), 3, "not written as"},
		"carriage return":    {func(l []string) []string { l[4] += "\r"; return l }, 5, "not written as"},
		"space":              {replace(2, `"attempt":1`, `"attempt": 1`), 2, "not written as"},
		"an escape":          {replace(3, `octocat`, `octoc\u0061t`), 3, "not written as"},
		"offset of the time": {replace(3, `Z","data"`, `+00:00","data"`), 3, "not written as"},
		"number":             {replace(3, `"attempt":1,`, `"attempt":1e0,`), 3, ""},
		"huge attempt":       {replace(3, `"attempt":1,`, `"attempt":4294967297,`), 3, "attempt 4294967297"},
		"time falls":         {replace(5, `"recorded_at":"2`, `"recorded_at":"1`), 5, "is before that of the position before"},
		"no body": {func(l []string) []string {
			l[15] = l[15][:strings.Index(l[15], `"body":`)] + `"body":null}`
			return l
		}, 16, "not written as"},
		"lower case ID": {func(l []string) []string {
			l[14] = strings.Replace(l[14], l[14][20:46], strings.ToLower(l[14][20:46]), 1)
			return l
		}, 15, "does not follow"},
		"header twice":        {replace(1, `"version":1`, `"version":1,"version":1`), 1, "not written as"},
		"header CR":           {func(l []string) []string { l[0] += "\r"; return l }, 1, "not written as"},
		"instances reordered": {replace(1, `["prod","staging"]`, `["staging","prod"]`), 23, "names the instances"},
		"body key twice":      {replace(16, `"salt":`, `"salt":"","salt":`), 16, "not written as"},
		"body CR":             {func(l []string) []string { l[15] += "\r"; return l }, 16, "not written as"},
		"base64 otherwise":    {replace(16, `"}`, `\n"}`), 16, "not written as"},
		"other content type":  {replace(16, `application/json`, `text/plain`), 16, "the content type of its body is"},
		"body taken away":     {func(l []string) []string { return append(l[:16], l[17:]...) }, 22, "its body is missing"},
		"orphan body": {func(l []string) []string {
			rest := append([]string{bodyLine("0123456789abcdef", "orphan", "")}, l[15:22]...)
			slices.Sort(rest)
			return append(append(l[:15:15], rest...), l[22])
		}, 0, "no event names it"},
		"body in its salt": {func(l []string) []string {
			var b struct{ Salt, Body []byte }
			if err := json.Unmarshal([]byte(l[15]), &b); err != nil {
				t.Fatal(err)
			}
			l[15] = bodyLine(string(b.Salt)+string(b.Body), "", "application/json")
			return l
		}, 16, "the salt of its body has 26 bytes"},
		"last line twice": {func(l []string) []string { return append(l, l[22]) }, 23, "something behind the last line"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := resum(t, c.change(slices.Clone(lines)))
			_, err := Check(strings.NewReader(changed))
			var damaged *DamagedError
			switch {
			case name == "nothing":
				if err != nil || changed != string(file) {
					t.Errorf("%v\n%s", err, changed)
				}
			case !errors.As(err, &damaged) || c.line != 0 && damaged.Line != c.line || !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v, want line %d: %q", err, c.line, c.want)
			}
		})
	}
}

// resum writes the last line as it would have to be for the others.
func resum(t *testing.T, lines []string) string {
	t.Helper()
	var edge eventlog.Edge
	var last trailer
	last.End = true
	end := 0
	for i, line := range lines {
		if strings.HasPrefix(line, trailerKey) {
			end = i
			break
		}
		var l eventLine
		switch {
		case strings.HasPrefix(line, bodyKey):
			last.Bodies++
		case strings.HasPrefix(line, eventKey):
			last.Events++
			if json.Unmarshal([]byte(line), &l) == nil {
				edge.Add(eventlog.LeafHash(&eventlog.Event{
					Position: l.Position, ID: l.ID, Instance: l.Instance, DeliveryID: l.DeliveryID, Type: l.Type, Deployment: l.Deployment,
					Attempt: l.Attempt, Actor: l.Actor, RecordedAt: l.RecordedAt, Data: l.Data,
				}), nil)
			}
		}
	}
	root := edge.Root()
	last.TreeSize, last.Root = last.Events, root[:]
	head := strings.Join(lines[:end], "\n") + "\n"
	sum := sha256.Sum256([]byte(head))
	last.SHA256 = hex.EncodeToString(sum[:])
	text, err := marshal(last)
	if err != nil {
		t.Fatal(err)
	}
	return head + string(text) + "\n" + strings.Join(append(lines[end+1:], ""), "\n")
}

func TestExport_EmptyLog(t *testing.T) {
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
