package eventlog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestFollowBeginsAfterTheCheckpoint(t *testing.T) {
	l := newLog(t)
	for n := range 2500 {
		if n%500 == 0 {
			var groups []Group
			for i := range 500 {
				groups = append(groups, group(received(fmt.Sprint("d", n+i))))
			}
			if _, err := l.AppendAll(testContext(t), groups); err != nil {
				t.Fatal(err)
			}
		}
	}
	done := errors.New("done")
	want := int64(101)
	err := l.Follow(testContext(t), 100, func(_ context.Context, events []Event) error {
		if len(events) > followLimit {
			t.Errorf("handed %d events at once", len(events))
		}
		for _, e := range events {
			if e.Position != want {
				t.Fatalf("got position %d, want %d", e.Position, want)
			}
			want++
		}
		if want == 2501 {
			return done
		}
		return nil
	})
	if err != done { //nolint:errorlint // Follow returns apply's error as it is
		t.Fatalf("follow: %v", err)
	}
}

func TestFollowBoundsWhatItHandsOver(t *testing.T) {
	l := newLog(t)
	tail := make([]byte, 1<<20)
	for i := range tail {
		tail[i] = 'x'
	}
	const events = 20
	for n := range events {
		mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: fmt.Sprint("d", n), Data: Failed{OutputTail: string(tail)}}))
	}
	got, calls := 0, 0
	done := errors.New("done")
	err := l.Follow(testContext(t), 0, func(_ context.Context, batch []Event) error {
		got, calls = got+len(batch), calls+1
		if got == events {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) || calls < 2 {
		t.Errorf("got %d events in %d calls, %v", got, calls, err)
	}
}

// waitListening waits until some session of the database listens.
func waitListening(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for n := 0; n == 0; time.Sleep(time.Millisecond) {
		if err := conn.QueryRow(testContext(t), `select count(*) from pg_stat_activity
			where datname = current_database() and query = 'listen durhack_events' and state = 'idle'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody listens")
		}
	}
}

// With a poll interval that never ends, only the hint can wake the follower.
func TestFollowIsWokenByAnotherProcess(t *testing.T) {
	dsn := pgtest.DSN(t)
	pool := migrate(t, dsn)
	writer := openLog(t, pool)
	reader := openLog(t, pgtest.Pool(t, dsn), WithPoll(time.Hour))
	f := startFollower(t, reader)
	waitListening(t, superuser(t, pool))
	mustAppend(t, writer, group(received("d1")))
	f.until(t, 1)
}

// sessions counts those of our programs at the server.
func sessions(t *testing.T, conn *pgx.Conn) (n int) {
	t.Helper()
	err := conn.QueryRow(testContext(t), `select count(*) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid() and application_name = 'follower'`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// As above, but what listens is what reads.
func TestFollow_OneConnection(t *testing.T) {
	dsn := pgtest.DSN(t)
	pool := migrate(t, dsn)
	writer := openLog(t, pool)
	reader := openLog(t, pgtest.Pool(t, dsn+" application_name=follower"), WithPoll(time.Hour), OneConnection())
	f := startFollower(t, reader)
	conn := superuser(t, pool)
	for n := range 3 {
		mustAppend(t, writer, group(received(fmt.Sprint("d", n))))
		f.reach(t, int64(n+1))
		if n := sessions(t, conn); n != 1 {
			t.Errorf("a follower has %d connections", n)
		}
	}
	f.until(t, 3)
}

// Where the server has few connections to spare, followers hold none between two looks.
func TestFollow_LeavesConnectionsToOthers(t *testing.T) {
	server := pgtest.NewServer(t)
	pool := migrate(t, server.DSN())
	conn := superuser(t, pool)
	var spare int
	if err := conn.QueryRow(testContext(t), "select current_setting('max_connections')::int * 3 / 4").Scan(&spare); err != nil {
		t.Fatal(err)
	}
	for range spare {
		superuser(t, pool)
	}
	writer := openLog(t, pool)
	const poll = 200 * time.Millisecond
	reader := openLog(t, pgtest.Pool(t, server.DSN()+" application_name=follower"), WithPoll(poll), OneConnection())
	f := startFollower(t, reader)
	mustAppend(t, writer, group(received("d1")))
	f.reach(t, 1)
	for deadline := time.Now().Add(patience); sessions(t, conn) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the follower never gives its connection up")
		}
	}
	mustAppend(t, writer, group(received("d2")))
	f.until(t, 2)
}

func TestFollowIsNudgedInProcess(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool, WithPoll(time.Hour))
	l.mu.Lock()
	l.listening = true // says so, but nobody does: only the nudge is left
	l.mu.Unlock()
	f := startFollower(t, l)
	for n := range 100 {
		mustAppend(t, l, group(received(fmt.Sprint("d", n))))
	}
	f.until(t, 100)
}

// Without any hint, the poll is what finds the event.
func TestFollowPolls(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool, WithPoll(5*time.Millisecond))
	f := startFollower(t, l)
	conn := superuser(t, pool)
	insertRaw(t, conn, 1)
	f.until(t, 1)
}

// insertRaw puts an event at the position without a hint, and the head there.
func insertRaw(t *testing.T, conn *pgx.Conn, position int64) {
	t.Helper()
	ctx := testContext(t)
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	id := fmt.Sprintf("%026d", position)
	if _, err := tx.Exec(ctx, `insert into events (`+eventColumns+`) values ($1, $2, 'test', $2, 'voided', null, 0, '', now(), '{"v":1}')`, position, id); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `update log_head set position = $1, last_id = $2`, position, id); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestFollow_HoleIsAnErrorAtOnce(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	conn := superuser(t, pool)
	insertRaw(t, conn, 1)
	insertRaw(t, conn, 3) // 2 is missing
	if _, err := conn.Exec(testContext(t), `update log_head set position = 5, last_id = lpad('5', 26, '0')`); err != nil {
		t.Fatal(err) // and so are 4 and 5
	}
	ignore := func(context.Context, []Event) error { return nil }
	for _, test := range []struct {
		after, want, got int64
	}{
		{0, 2, 3}, {1, 2, 3}, {2, 4, 0}, {3, 4, 0}, {4, 5, 0}, {6, 7, 0},
	} {
		_, readErr := l.Read(testContext(t), test.after, 100)
		for name, err := range map[string]error{
			"read":   readErr,
			"follow": l.Follow(testContext(t), test.after, ignore),
			"scan":   l.Scan(testContext(t), test.after, func([]Event) error { return nil }),
		} {
			var hole *HoleError
			if !errors.As(err, &hole) || hole.Want != test.want || hole.Got != test.got || hole.Head != 5 {
				t.Errorf("%s after %d: got %v (%+v), want a hole at %d", name, test.after, err, hole, test.want)
			}
		}
	}
	if events, err := l.Read(testContext(t), 5, 100); err != nil || len(events) != 0 {
		t.Errorf("at the end: %v, %v", events, err)
	}
	// What comes before the hole can be read.
	if events, err := l.Read(testContext(t), 0, 1); err != nil || len(events) != 1 {
		t.Errorf("before the hole: %v, %v", events, err)
	}
}

func TestFind(t *testing.T) {
	l := newLog(t)
	mustAppend(t, l, group(received("d1"), started("d1", "web", 1), deployed("d1", "web", 1))) // 1 2 3
	mustAppend(t, l, group(received("d2"), started("d2", "api", 1)))                           // 4 5
	other := received("d1")
	other.Instance = "elsewhere"
	cut := mustAppend(t, l, group(other))[0] // 6
	for _, test := range []struct {
		name   string
		filter Filter
		want   []int64
	}{
		{"all", Filter{}, []int64{1, 2, 3, 4, 5, 6}},
		{"instance", Filter{Instance: "elsewhere"}, []int64{6}},
		{"delivery", Filter{DeliveryID: "d1"}, []int64{1, 2, 3, 6}},
		{"deployment", Filter{Deployment: "api"}, []int64{5}},
		{"types", Filter{Types: []Type{TypeReceived, TypeDeployed}}, []int64{1, 3, 4, 6}},
		{"after and limit", Filter{After: 2, Limit: 2}, []int64{3, 4}},
		{"newest", Filter{Instance: "test", Limit: 2, Newest: true}, []int64{4, 5}},
		{"deliveries", Filter{DeliveryIDs: []string{"d2", "none"}, Instance: "test"}, []int64{4, 5}},
		{"no deliveries", Filter{DeliveryIDs: []string{}}, nil},
		{"beginning of a delivery", Filter{DeliveryPrefix: "d"}, []int64{1, 2, 3, 4, 5, 6}},
		{"all of a delivery", Filter{DeliveryPrefix: "d1", Instance: "test"}, []int64{1, 2, 3}},
		{"more than a delivery", Filter{DeliveryPrefix: "d11"}, nil},
		{"no pattern of a delivery", Filter{DeliveryPrefix: "_"}, nil},
		{"commit", Filter{Commit: "0123456789012345678901234567890123456789", DeliveryID: "d2"}, []int64{4, 5}},
		{"beginning of a commit", Filter{Commit: "0123456", Types: []Type{TypeReceived}}, []int64{1, 4, 6}},
		{"no such commit", Filter{Commit: "123456"}, nil},
		{"no pattern", Filter{Commit: "01234_6%"}, nil},
		{"since", Filter{Since: cut.RecordedAt}, []int64{6}},
		{"until", Filter{Until: cut.RecordedAt}, []int64{1, 2, 3, 4, 5}},
		{"text from outside", Filter{DeliveryID: "d1' or true --\x00\xff"}, nil},
	} {
		var got []int64
		for e, err := range l.Find(testContext(t), test.filter) {
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			got = append(got, e.Position)
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
		if test.filter.Limit > 0 {
			continue
		}
		// A follower that filters by itself must choose the same.
		var matched []int64
		for _, e := range all(t, l) {
			if test.filter.Match(e) {
				matched = append(matched, e.Position)
			}
		}
		if fmt.Sprint(matched) != fmt.Sprint(test.want) {
			t.Errorf("%s: matched %v, want %v", test.name, matched, test.want)
		}
	}
	if got, err := l.Instances(testContext(t)); fmt.Sprint(got, err) != "[elsewhere test] <nil>" {
		t.Errorf("instances: %v, %v", got, err)
	}
	for range l.Find(testContext(t), Filter{}) {
		break // must not leave a connection behind: the pool's Close would wait for it
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	for _, err := range l.Find(ctx, Filter{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
}
