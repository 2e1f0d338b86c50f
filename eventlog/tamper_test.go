package eventlog

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

var logTables = []string{"events", "event_hashes", "payloads", "log_head"}

// vandal is a superuser who has taken away every guard of the tables, and can
// put their content back.
type vandal struct{ conn *pgx.Conn }

func newVandal(t testing.TB, pool *pgxpool.Pool) *vandal {
	t.Helper()
	v := &vandal{superuser(t, pool)}
	for _, table := range logTables {
		// Not null, which is its own constraint from Postgres 18 on, hinders nobody.
		v.do(t, "alter table "+table+" disable trigger all", "create table saved_"+table+" as table "+table,
			fmt.Sprintf(`do $$ declare c name; begin
				for c in select conname from pg_constraint where conrelid = 'public.%[1]s'::regclass and contype <> 'n' loop
					execute format('alter table public.%[1]s drop constraint %%I cascade', c);
				end loop;
			end $$`, table), "create index on "+table+" ("+map[string]string{"payloads": "digest"}[table]+map[bool]string{true: "position"}[table != "payloads"]+")")
	}
	return v
}

func (v *vandal) do(t tester, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := v.conn.Exec(testContext(t), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (v *vandal) undo(t tester) {
	t.Helper()
	for _, table := range logTables {
		v.do(t, "delete from "+table+"; insert into "+table+" table saved_"+table)
	}
}

// sample is a log with everything in it that can be tampered with: bodies, one
// that came again with another, one that was redacted. It has 37 events, so that
// the tree has subtrees of several sizes and a lonely last leaf.
func sample(t testing.TB, l *Log) {
	t.Helper()
	for n := range 11 {
		id := fmt.Sprintf("d%02d", n)
		p := payload("salt of "+id, `{"body":"`+id+`"}`)
		p.ContentType = "application/json"
		r := received(id)
		data := r.Data.(Received)
		data.PayloadDigest, data.PayloadSize, data.ContentType = p.Digest, int64(len(p.Body)), p.ContentType
		r.Data = data
		mustAppend(t, l, Group{Transitions: []Transition{r}, Payload: p})
		mustAppend(t, l, group(started(id, "web", 1)))
		mustAppend(t, l, group(deployed(id, "web", 1)))
	}
	p := payload("other salt", `{"other":"body"}`)
	p.ContentType = "text/<odd>"
	again := Transition{Instance: "test", DeliveryID: "d03", Attempt: 1, Actor: "octocat", Data: Redelivered{
		Action: ActionIgnored, PayloadDigest: p.Digest, PayloadSize: int64(len(p.Body)), ContentType: p.ContentType,
	}}
	mustAppend(t, l, Group{Transitions: []Transition{again}, Payload: p})
	redact(t, l, "d05")
	mustAppend(t, l, group(received("no body")))
	mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: "no body", Attempt: 1, Actor: "o", Data: Voided{Reason: ReasonPing, Detail: "\x00 and \u00e9"}}))
}

func redact(t testing.TB, l *Log, delivery string) Event {
	t.Helper()
	var digests []string
	for e, err := range l.Find(testContext(t), Filter{DeliveryID: delivery}) {
		if err != nil {
			t.Fatal(err)
		}
		data, err := e.Decode()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, bodiesOf(data)...)
	}
	return mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: delivery, Attempt: 1, Actor: "ann", Data: Redacted{Reason: "a secret", PayloadDigests: digests}}))[0]
}

const sampleSize = 37

// flip changes one character of a text, wherever it is.
func flip(column string, at int) string {
	return fmt.Sprintf(`%[1]s = overlay(%[1]s placing case substr(%[1]s, 1 + %[2]d %% length(%[1]s), 1) when 'x' then 'y' else 'x' end from 1 + %[2]d %% length(%[1]s) for 1)`, column, at)
}

// tampering is what a vandal does; it always changes something. at is a position
// that must be named, 0 where there is none.
type tampering struct {
	what string
	sql  []string
	at   int
}

// genTamperings draws places, and what could be done there.
func genTamperings(t *rapid.T) []tampering {
	p := rapid.IntRange(1, sampleSize).Draw(t, "position")
	q := rapid.IntRange(1, sampleSize-1).Draw(t, "other")
	if q >= p {
		q++
	}
	n := rapid.IntRange(0, 1000).Draw(t, "n")
	where := fmt.Sprintf(" where position = %d", p)
	lo, hi := min(p, q), max(p, q)
	move := func(columns string) []string {
		return []string{fmt.Sprintf(`update events e set (%[1]s) = (select %[1]s from saved_events s where s.position = %[2]d + %[3]d - e.position) where position in (%[2]d, %[3]d)`, columns, p, q)}
	}
	const content = "id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data"
	change := func(set string) []string { return []string{"update events set " + set + where} }
	body := fmt.Sprintf("(select digest from saved_payloads order by digest offset %d %% 11 limit 1)", n)
	return []tampering{
		{"id", change(flip("id", n)), p},
		{"instance", change(flip("instance", n)), p},
		{"delivery", change(flip("delivery_id", n)), p},
		{"type", change(flip("type", n)), p},
		{"other known type", change("type = case type when 'voided' then 'forwarded' else 'voided' end"), p},
		{"deployment", change("deployment = case when deployment is null then 'web' end"), p},
		{"attempt", change("attempt = attempt + 1"), p},
		{"actor", change("actor = actor || ','"), p},
		{"actor emptied", change("actor = ''"), p},
		{"time", change("recorded_at = recorded_at + interval '1 microsecond'"), p},
		{"data spelled otherwise", change("data = (data::text || ' ')::json"), p},
		{"data", change("data = replace(data::text, '\"v\":1', '\"v\":2')::json"), p},
		{"boundary moved", change("instance = instance || left(delivery_id, 1), delivery_id = substr(delivery_id, 2)"), p},
		{"row deleted", []string{"delete from events" + where}, p},
		{"row and hashes deleted", []string{"delete from events" + where, "delete from event_hashes" + where}, p},
		{"rows deleted", []string{fmt.Sprintf("delete from events where position between %d and %d", lo, hi)}, lo},
		{"events truncated", []string{"truncate events"}, 1},
		{"all truncated", []string{"truncate events", "truncate event_hashes", "truncate payloads"}, 0},
		{"rows swapped", move(content), p},
		{"rows swapped with hashes", append(move(content), fmt.Sprintf(
			"update event_hashes h set hashes = substr(s.hashes, 1, 32) || substr(h.hashes, 33) from saved_event_hashes s where h.position in (%[1]d, %[2]d) and s.position = %[1]d + %[2]d - h.position", p, q)), 0},
		{"data swapped", move("actor, recorded_at, delivery_id, data"), p},
		{"row inserted twice", []string{"insert into events select * from saved_events" + where}, p},
		{"row inserted", []string{fmt.Sprintf("update events set position = position + 1 where position >= %d", p),
			"insert into events select * from saved_events" + where}, p + 1}, // the first of the two is where it was
		{"row inserted at the end", []string{fmt.Sprintf("insert into events select %d, id || 'x', "+content[4:]+" from saved_events"+where, sampleSize+1)}, sampleSize + 1},
		{"row inserted before the start", []string{fmt.Sprintf("insert into events select %d, "+content+" from saved_events"+where, -n)}, 0},
		{"row inserted far behind", []string{fmt.Sprintf("insert into events select %d, "+content+" from saved_events"+where, int64(1)<<(20+n%43))}, sampleSize + 1},
		{"row cut out and closed up", []string{"delete from events" + where, fmt.Sprintf("update events set position = position - 1 where position > %d", p)}, p},
		{"end cut off", []string{fmt.Sprintf("delete from events where position > %d", p-1), fmt.Sprintf("delete from event_hashes where position > %d", p-1)}, 0},
		{"end cut off, head moved, hashes left", []string{fmt.Sprintf("delete from events where position > %d", p-1), fmt.Sprintf("update log_head set position = %d", p-1)}, p},
		{"hash", []string{fmt.Sprintf("update event_hashes set hashes = set_bit(hashes, %[1]d %% bit_length(hashes), 1 - get_bit(hashes, %[1]d %% bit_length(hashes)))", n) + where}, 0},
		{"hash deleted", []string{"delete from event_hashes" + where}, p},
		{"hashes truncated", []string{"truncate event_hashes"}, 1},
		{"hash row longer", []string{"update event_hashes set hashes = hashes || sha256('x')" + where}, p},
		{"hash row shorter", []string{"update event_hashes set hashes = substr(hashes, 1, octet_length(hashes) - 1)" + where}, p},
		{"hash inserted twice", []string{"insert into event_hashes table saved_event_hashes"}, 1},
		{"hash inserted at the end", []string{fmt.Sprintf("insert into event_hashes values (%d, sha256('x'))", sampleSize+1)}, sampleSize + 1},
		{"hashes swapped", []string{fmt.Sprintf("update event_hashes h set position = %d + %d - position where position in (%d, %d)", p, q, p, q)}, 0},
		// Not the last one: it has no hash above it, so that only an older root tells.
		{"row and its leaf hash", []string{fmt.Sprintf("update events set actor = 'eve' where position = %d", min(p, 36)),
			fmt.Sprintf("update event_hashes h set hashes = sha256('\\x00'::bytea || event_log_leaf(e.position, e.id, e.instance, e.delivery_id, e.type, e.deployment, e.attempt, e.actor, (extract(epoch from e.recorded_at) * 1000000)::bigint::text, e.data::text)) || substr(h.hashes, 33) from events e where e.position = h.position and e.position = %d", min(p, 36))}, 0},
		{"body", []string{fmt.Sprintf("update payloads set body = set_byte(body, %[1]d %% octet_length(body), 255 - get_byte(body, %[1]d %% octet_length(body))) where digest = ", n) + body}, 0},
		{"salt", []string{"update payloads set salt = set_byte(salt, 3, 255 - get_byte(salt, 3)) where digest = " + body}, 0},
		{"body into salt", []string{"update payloads set salt = salt || body, body = '' where digest = " + body}, 0},
		{"body cut into salt", []string{"update payloads set salt = salt || substr(body, 1, 4), body = substr(body, 5) where digest = " + body}, 0},
		{"time of an earlier event", change("recorded_at = (select recorded_at - interval '1 day' from saved_events where position = 1)"), p},
		{"salt into body", []string{"update payloads set salt = substr(salt, 1, octet_length(salt) - 1), body = 'x' || body where digest = " + body}, 0},
		{"content type", []string{"update payloads set content_type = content_type || 'x' where digest = " + body}, 0},
		{"digest", []string{"update payloads set digest = reverse(digest) where digest = " + body}, 0},
		{"body deleted", []string{"delete from payloads where digest = " + body}, 0},
		{"bodies truncated", []string{"truncate payloads"}, 1},
		{"bodies swapped", []string{"update payloads p set body = s.body, salt = s.salt from saved_payloads s where p.digest <> s.digest and s.digest = " + body}, 0},
		{"body inserted", []string{"insert into payloads (digest, salt, content_type, body) values (encode(sha256('0123456789abcdefb'), 'hex'), '0123456789abcdef', '', 'b')"}, 0},
		{"redacted body brought back", []string{`insert into payloads (digest, salt, content_type, body)
			values (encode(sha256(substr(sha256('salt of d05'), 1, 16) || '{"body":"d05"}'), 'hex'), substr(sha256('salt of d05'), 1, 16), 'application/json', '{"body":"d05"}')`}, 16},
		{"redaction redirected", []string{"update events set delivery_id = 'd06' where type = 'redacted'"}, 35},
		{"head moved on", []string{fmt.Sprintf("update log_head set position = position + 1 + %d", n)}, 0},
		{"head moved back", []string{fmt.Sprintf("update log_head set position = %d", p-1)}, 0},
		{"head moved below", []string{"update log_head set position = -1"}, 0},
		{"head names another ID", []string{"update log_head set " + flip("last_id", n)}, sampleSize},
		{"head deleted", []string{"delete from log_head"}, 0},
		{"head doubled", []string{"insert into log_head table saved_log_head"}, 0},
	}
}

// Whatever a superuser does to a single table, or to several without making all
// of them again, shows, and at the position where it was done.
func TestVerifyFindsEveryTampering(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	sample(t, l)
	v := sound(t, l, true)
	if v.Tree.N != sampleSize || v.Bodies != 11 || v.Redacted != 1 {
		t.Fatalf("verified %+v", v)
	}
	vandal := newVandal(t, pool)
	rapid.Check(t, func(t *rapid.T) {
		all := genTamperings(t)
		for i := rapid.IntRange(0, 4).Draw(t, "the first of each five"); i < len(all); i += 5 {
			c := all[i]
			vandal.do(t, c.sql...)
			v, err := l.Verify(testContext(t), VerifyOptions{})
			vandal.undo(t)
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			if len(v.Faults) == 0 {
				t.Fatalf("%s was not found: %s", c.what, strings.Join(c.sql, "; "))
			}
			if c.at != 0 && !slices.ContainsFunc(v.Faults, func(f Fault) bool { return f.Position <= int64(c.at) && int64(c.at) <= f.Last }) {
				t.Fatalf("%s at position %d: found only %v", c.what, c.at, v.Faults)
			}
		}
	})
	sound(t, l, true)
}

// What was done is told at the position where it was done, and nowhere else.
func TestFaults_AreWhereItWasDone(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	sample(t, l)
	vandal := newVandal(t, pool)
	flipByte := func(p, byte int) string {
		return fmt.Sprintf("update event_hashes set hashes = set_byte(hashes, %[2]d, 255 - get_byte(hashes, %[2]d)) where position = %[1]d", p, byte)
	}
	for name, c := range map[string]struct {
		sql  []string
		want []string
	}{
		"column":        {[]string{"update events set actor = 'eve' where position = 9"}, []string{"position 9: " + textChanged}},
		"right column":  {[]string{"update events set actor = 'eve' where position = 10"}, []string{"position 10: " + textChanged}},
		"leaf hash":     {[]string{flipByte(9, 0)}, []string{"position 9: " + textChanged}},
		"right leaf":    {[]string{flipByte(10, 31)}, []string{"position 10: " + textChanged}},
		"one of each":   {[]string{"update events set actor = 'eve' where position = 9", flipByte(10, 0)}, []string{"positions 9 to 10: " + textChanged}},
		"other of each": {[]string{"update events set actor = 'eve' where position = 10", flipByte(9, 0)}, []string{"positions 9 to 10: " + textChanged}},
		"node":          {[]string{flipByte(16, 64)}, []string{"position 16: " + textChanged}},
		"top node":      {[]string{flipByte(32, 160)}, []string{"position 32: " + textChanged}},
		"last leaf":     {[]string{flipByte(37, 1)}, []string{"position 37: " + textChanged}},
		"node and column": {[]string{flipByte(16, 64), "update events set actor = 'eve' where position = 14"},
			[]string{"position 14: " + textChanged, "position 16: " + textChanged}},
		"rows":     {[]string{"delete from events where position between 5 and 9"}, []string{"positions 5 to 9: " + textNoRow}},
		"hashes":   {[]string{"delete from event_hashes where position between 5 and 9"}, []string{"positions 5 to 9: " + textNoHashes}},
		"both":     {[]string{"delete from events where position between 12 and 20", "delete from event_hashes where position between 12 and 20"}, []string{"positions 12 to 20: " + textNeither}},
		"one more": {[]string{"insert into events select 0, id || 'x', instance, 'd99', type, deployment, attempt, actor, recorded_at, data from events where position = 2"}, []string{"position 0: " + textInserted}},
		"the last there can be": {[]string{"insert into events select 9223372036854775807, id || 'x', instance, 'd99', type, deployment, attempt, actor, recorded_at, data from events where position = 2"},
			[]string{"positions 38 to 9223372036854775806: " + textNeither, "position 9223372036854775807: it stands so far behind the rest that nothing from here on was looked at"}},
		"swapped": {[]string{"update events e set id = s.id from saved_events s where e.position in (20, 21) and s.position = 41 - e.position"},
			[]string{"position 20: " + textChanged, "position 21: " + textOutOfOrder, "position 21: " + textChanged}},
		"head": {[]string{"update log_head set position = 30"}, []string{"positions 31 to 37: past the head of the log, which is at 30: rows were inserted at the end, or the head was changed"}},
		"body": {[]string{"update payloads set body = 'x' where position('d04' in encode(body, 'escape')) > 0"},
			[]string{"position 13: its body or its salt was changed: they do not give the digest that the event names"}},
		"body gone": {[]string{"delete from payloads where position('other' in encode(body, 'escape')) > 0"}, []string{"position 34: its body is missing, and was not redacted"}},
	} {
		t.Run(name, func(t *testing.T) {
			vandal.do(t, c.sql...)
			defer vandal.undo(t)
			var got []string
			for _, f := range verify(t, l, VerifyOptions{}).Faults {
				text := f.String()
				if f.Position == 0 && f.Text == textInserted {
					text = "position 0: " + text
				}
				got = append(got, text)
			}
			// Rows that are missing take what depends on them with them.
			if strings.HasPrefix(name, "rows") || name == "both" {
				got = slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, "no event names it") })
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// A log that was made again as a whole fits together. It has other roots.
func TestRewrittenLogHasOtherRoots(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	sample(t, l)
	sizes := []int64{1, 20, 21, 22, 36, 37}
	before := verify(t, l, VerifyOptions{Sizes: sizes})
	vandal := newVandal(t, pool)
	vandal.do(t, "update events set actor = 'eve' where position = 21", "truncate event_hashes")
	rehash(t, vandal.conn)
	after := verify(t, l, VerifyOptions{Sizes: sizes})
	if len(after.Faults) != 0 {
		t.Errorf("found %v", after.Faults)
	}
	for _, size := range sizes {
		if same := before.Roots[size] == after.Roots[size]; same != (size < 21) {
			t.Errorf("root at %d: same is %v", size, same)
		}
	}
}

// A log that is wrong everywhere is described in bounded space.
func TestFaultsAreBounded(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	var groups []Group
	for n := range 1500 {
		groups = append(groups, group(received(fmt.Sprint("d", n))))
	}
	if _, err := l.AppendAll(testContext(t), groups); err != nil {
		t.Fatal(err)
	}
	sound(t, l, true)
	vandal := newVandal(t, pool)
	vandal.do(t, "update events set actor = 'eve' where position % 5 < 4")
	v := verify(t, l, VerifyOptions{})
	covered := v.More
	for _, f := range v.Faults {
		covered += f.Last - f.Position + 1
	}
	if len(v.Faults) > maxFaults || covered != 1200 {
		t.Errorf("%d faults and %d more cover %d positions, want 1200", len(v.Faults), v.More, covered)
	}
}
