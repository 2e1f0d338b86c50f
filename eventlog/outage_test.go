package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

var errCut = errors.New("connection was cut by the test")

// cutter cuts a connection at a chosen moment of the protocol.
type cutter struct {
	armed atomic.Bool
	cuts  atomic.Int32
	// onWrite and onRead are what a message must contain to be lost.
	onWrite, onRead []byte
}

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, cutter: c}, nil
}

func (c *cutter) cut(b, on []byte) bool {
	return on != nil && bytes.Contains(b, on) && c.armed.CompareAndSwap(true, false)
}

type cutConn struct {
	net.Conn
	cutter *cutter
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.cutter.cut(b, c.cutter.onWrite) {
		c.cutter.cuts.Add(1)
		return 0, errors.Join(errCut, c.Close())
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cutter.cut(b[:n], c.cutter.onRead) {
		c.cutter.cuts.Add(1)
		return 0, errors.Join(errCut, c.Close())
	}
	return n, err
}

// The connection breaks before the server learns of the commit, and after it
// has answered it: the caller sees neither, and the log has the event once.
func TestConnectionLostAroundCommit(t *testing.T) {
	for name, c := range map[string]*cutter{
		"begin never sent":           {onWrite: []byte("lost")},
		"events never sent":          {onWrite: []byte(`"repository":"ducompsoc/durhack"`)},
		"answer to the lock lost":    {onRead: []byte("at\x00")},
		"answer to the commit lost":  {onRead: []byte("COMMIT\x00")},
		"answer to the payload lost": {onRead: []byte("event_log_store\x00")},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.DSN(t)
			migrate(t, dsn)
			config, err := pgxpool.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			config.AfterConnect = migrations.SetRole
			config.ConnConfig.DialFunc = c.dial
			if name == "answer to the lock lost" {
				c.onRead = []byte("SELECT 1\x00")
			}
			pool, err := pgxpool.NewWithConfig(testContext(t), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			l := openLog(t, pool)
			mustAppend(t, l, group(received("first"))) // statements are prepared from here on
			c.armed.Store(true)
			g := group(received("lost"), started("lost", "web", 1))
			g.Payload = payload("salt", "body")
			events := mustAppend(t, l, g)
			if n := c.cuts.Load(); n != 1 {
				t.Fatalf("connection was cut %d times, want 1", n)
			}
			if events[0].Position != 2 || events[1].Position != 3 || len(all(t, l)) != 3 {
				t.Errorf("appended %+v; the log has %d events", events, len(all(t, l)))
			}
			if _, err := l.Payload(testContext(t), g.Payload.Digest); err != nil {
				t.Error(err)
			}
			sound(t, l, false)
		})
	}
}

// load appends until stopped; every append must succeed, however long it takes.
type load struct {
	wg   sync.WaitGroup
	stop chan struct{}
	n    atomic.Int64
	mu   sync.Mutex
	want map[string]Event
}

func startLoad(t *testing.T, logs ...*Log) *load {
	ld := &load{stop: make(chan struct{}), want: make(map[string]Event)}
	ctx := testContext(t)
	for i, l := range logs {
		for w := range 4 {
			ld.wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-ld.stop:
						return
					default:
					}
					id := fmt.Sprintf("d-%d-%d-%d", i, w, n)
					events, err := l.Append(ctx, group(received(id), started(id, "web", 1)))
					if err != nil {
						t.Errorf("append %s: %v", id, err)
						return
					}
					ld.mu.Lock()
					ld.want[id] = events[0]
					ld.mu.Unlock()
					ld.n.Add(1)
				}
			})
		}
	}
	return ld
}

// more waits until n more groups were appended.
func (ld *load) more(t *testing.T, n int64) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for want := ld.n.Load() + n; ld.n.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || t.Failed() {
			t.Fatalf("only %d of %d groups were appended", ld.n.Load(), want)
		}
	}
}

// end stops the load and compares the log, and what a follower saw, with what was acknowledged.
func (ld *load) end(t *testing.T, l *Log, follower *followed) {
	t.Helper()
	close(ld.stop)
	ld.wg.Wait()
	events := all(t, l)
	if len(events) != 2*len(ld.want) {
		t.Errorf("log has %d events, want %d", len(events), 2*len(ld.want))
	}
	for _, e := range events {
		if want, ok := ld.want[e.DeliveryID]; e.Type == TypeReceived && (!ok || !sameEvent(e, want)) {
			t.Errorf("log has %+v, acknowledged was %+v", e, want)
		}
	}
	follower.until(t, int64(len(events)))
}

// followed is a follower that runs beside a test.
type followed struct {
	position atomic.Int64
	ended    chan error
	cancel   context.CancelFunc
}

func startFollower(t *testing.T, l *Log) *followed {
	ctx, cancel := context.WithCancel(testContext(t))
	f := &followed{ended: make(chan error, 1), cancel: cancel}
	go func() {
		f.ended <- l.Follow(ctx, 0, func(_ context.Context, events []Event) error {
			for _, e := range events {
				if want := f.position.Add(1); e.Position != want {
					return fmt.Errorf("follower got position %d, want %d", e.Position, want)
				}
			}
			return nil
		})
	}()
	return f
}

// until waits until the follower is there, and ends it.
func (f *followed) until(t *testing.T, position int64) {
	t.Helper()
	f.reach(t, position)
	f.cancel()
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("follower ended with %v, want context.Canceled", err)
	}
}

func (f *followed) reach(t *testing.T, position int64) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for f.position.Load() < position {
		select {
		case err := <-f.ended:
			t.Fatalf("follower ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("follower is at %d, want %d", f.position.Load(), position)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAppendsSurviveTheServer(t *testing.T) {
	s := pgtest.NewServer(t)
	l1 := openLog(t, migrate(t, s.DSN()))
	l2 := openLog(t, pgtest.Pool(t, s.DSN()), WithPoll(20*time.Millisecond))
	follower := startFollower(t, l2)
	ld := startLoad(t, l1, l2)
	for _, down := range []func(testing.TB){s.Kill, s.Stop, s.Kill} {
		ld.more(t, 30)
		down(t)
		s.Start(t)
	}
	ld.more(t, 30)
	ld.end(t, l1, follower)
}

// A Log may be opened, and appended to, while the server is down.
func TestAppendWaitsForTheServer(t *testing.T) {
	s := pgtest.NewServer(t)
	pool := migrate(t, s.DSN())
	s.Stop(t)
	l := openLog(t, pool)
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Append(ctx, group(received("gave-up"))); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want context.DeadlineExceeded", err)
	}
	appended := make(chan error, 1)
	go func() {
		_, err := l.Append(testContext(t), group(received("waited")))
		appended <- err
	}()
	s.Start(t)
	if err := <-appended; err != nil {
		t.Fatal(err)
	}
	if events := all(t, l); len(events) != 1 || events[0].DeliveryID != "waited" {
		t.Errorf("log has %+v", events)
	}
}

func TestAppendsSurviveCutSessions(t *testing.T) {
	dsn := pgtest.DSN(t)
	pool := migrate(t, dsn)
	l1, l2 := openLog(t, pool), openLog(t, pgtest.Pool(t, dsn))
	follower := startFollower(t, l2)
	admin := superuser(t, pool)
	ld := startLoad(t, l1, l2)
	for range 30 {
		ld.more(t, 10)
		if _, err := admin.Exec(testContext(t), `select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
	}
	ld.end(t, l1, follower)
}
