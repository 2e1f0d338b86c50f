package eventlog

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// What is read ahead goes through several buffers, which are used again: no
// event may be lost, repeated or mixed with another where one follows the other.
func TestReadAhead(t *testing.T) {
	const n = 5*batchEvents + 3
	pool := migrate(t, pgtest.DSN(t))
	owner := superuser(t, pool)
	fill(t, owner, n)
	do := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(testContext(t), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	// Each has data of its own; now and then they are longer than a buffer begins with.
	do(`alter table events disable trigger all`)
	do(`update events set data = format('{"v":1,"reason":"stale","detail":"%s"}', repeat(position || ' ', case when position % 3000 = 0 then 9000 else 3 end))::json`)
	rehash(t, owner)
	do(`alter table log_head disable trigger all`)
	do(`update log_head set last_id = (select max(id) from events)`)
	l := openLog(t, pool)

	const after = 7
	want := int64(after)
	if err := l.Scan(testContext(t), after, func(events []Event) error {
		for i := range events {
			want++
			data, err := events[i].Decode()
			if err != nil {
				return err
			}
			if v, ok := data.(Voided); !ok || events[i].Position != want || v.Detail[:len(fmt.Sprint(want))+1] != fmt.Sprint(want, " ") {
				return fmt.Errorf("position %d, expected %d: %.60v", events[i].Position, want, data)
			}
		}
		return nil
	}); err != nil || want != n {
		t.Fatalf("scanned up to %d of %d: %v", want, n, err)
	}
	enough := errors.New("enough")
	if err := l.Scan(testContext(t), 0, func([]Event) error { return enough }); !errors.Is(err, enough) {
		t.Fatalf("a scan that has enough ended with %v", err)
	}
	for _, position := range []int64{1, batchEvents, batchEvents + 1, 4*batchEvents + 5, n - 1} {
		do(fmt.Sprintf(`create table saved as select * from events where position = %d`, position))
		do(fmt.Sprintf(`update events set actor = 'mallory' where position = %d`, position))
		v, err := l.Verify(testContext(t), VerifyOptions{TreeOnly: true})
		if err != nil || v.Tree.N != n || len(v.Faults) != 1 || v.Faults[0].Position != position {
			t.Fatalf("changed at %d: %d events, %v, %v", position, v.Tree.N, v.Faults, err)
		}
		do(fmt.Sprintf(`delete from events where position = %d`, position))
		v, err = l.Verify(testContext(t), VerifyOptions{TreeOnly: true})
		if err != nil || len(v.Faults) != 1 || v.Faults[0] != (Fault{position, position, textNoRow}) {
			t.Fatalf("removed at %d: %v, %v", position, v.Faults, err)
		}
		given := int64(0)
		var hole *HoleError
		if err := l.Scan(testContext(t), 0, func(events []Event) error {
			given += int64(len(events))
			return nil
		}); !errors.As(err, &hole) || hole.Want != position || given != position-1 {
			t.Fatalf("removed at %d: scanned %d, %v", position, given, err)
		}
		do(`insert into events table saved`)
		do(`drop table saved`)
	}
}
