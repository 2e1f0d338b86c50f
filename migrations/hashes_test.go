package migrations_test

import (
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// Events that came in without hashes, as an import brings them, get them, and the
// log goes on.
func TestEventsWithoutHashesGetThem(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	migrate(t, conn)
	for _, upTo := range []string{"13", "21"} {
		exec(t, conn, `insert into events (position, id, instance, delivery_id, type, attempt, actor, recorded_at, data)
			select n, lpad(n::text, 26, '0'), 'i', 'd' || n, 'voided', 0, 'caf' || chr(233), clock_timestamp(), '{"v":1, "detail":"\u0000"}'
			from generate_series((select count(*) from events) + 1, `+upTo+`) n`)
		exec(t, conn, "update log_head set position = "+upTo+", last_id = lpad('"+upTo+"', 26, '0')")
		exec(t, conn, "select event_log_fill_hashes()")
	}
	// Each stored hash, by the definition and not by the way in which they were made.
	const wrong = `select count(*)::text from event_hashes h join events e using (position)
		where substr(h.hashes, 1, 32) <> sha256('\x00'::bytea || event_log_leaf(e))
		   or octet_length(h.hashes) > 32 and substr(h.hashes, 33, 32) <> sha256('\x01'::bytea
			|| (select substr(l.hashes, 1, 32) from event_hashes l where l.position = h.position - 1) || substr(h.hashes, 1, 32))
		   or octet_length(h.hashes) > 64 and substr(h.hashes, 65, 32) <> sha256('\x01'::bytea
			|| (select substr(l.hashes, 33, 32) from event_hashes l where l.position = h.position - 2) || substr(h.hashes, 33, 32))`
	if got := text(t, conn, wrong); got != "0" {
		t.Errorf("%s rows of hashes are wrong", got)
	}
	if got := text(t, conn, "select count(*)::text from event_hashes"); got != "21" {
		t.Errorf("%s rows of hashes", got)
	}
	if got := text(t, conn, `select encode(substr(event_log_leaf(e), 1, 40), 'escape') from events e where position = 7`); got != "25:durhack-deployer/event/v1,1:7,26:0000" {
		t.Errorf("leaf begins with %s", got)
	}
	if err := appendOne(t, conn, 22); err != nil {
		t.Error(err)
	}
}
