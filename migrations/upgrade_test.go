package migrations_test

import (
	"fmt"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// A log from before the tree gets its hashes when it is migrated, and goes on.
func TestALogFromBeforeTheTreeIsHashed(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	if err := migrations.MigrateTo(testContext(t), conn, 3); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, `insert into payloads (digest, salt, content_type, body) values (repeat('0', 64), '', '', 'x')`)
	for n := 1; n <= 21; n++ {
		exec(t, conn, "begin")
		exec(t, conn, "select event_log_lock()")
		exec(t, conn, fmt.Sprintf(`select event_log_append(%d, clock_timestamp(), array['%026d'], array['i'], array['d%[1]d'], array['voided'],
			array[null::text], array[0], array['caf' || chr(233)], array['{"v":1, "detail":"\u0000"}'])`, n, n))
		exec(t, conn, "commit")
	}
	migrate(t, conn)
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
