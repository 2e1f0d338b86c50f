package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/lock"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

const patience = time.Minute

type fixture struct {
	dir  string
	pool *pgxpool.Pool
	log  *eventlog.Log
	key  *checkpoint.Key
	n    int
	said testkit.Buffer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	_, key, err := checkpoint.Generate("durhack-deployer/test")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{dir: t.TempDir(), pool: pgtest.Migrated(t), key: key}
	f.log = eventlog.Open(f.pool, slog.New(slog.DiscardHandler))
	t.Cleanup(f.log.Close)
	return f
}

func (f *fixture) signer(interval time.Duration) *Signer {
	return New(Options{Key: f.key, Log: f.log, Dir: f.dir, Interval: interval, Logger: slog.New(slog.NewTextHandler(&f.said, nil))})
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (f *fixture) append(t *testing.T, data eventlog.Data) {
	t.Helper()
	f.n++
	tr := eventlog.Transition{Instance: "test", DeliveryID: fmt.Sprint("d", f.n), Attempt: 1, Actor: "ann", Data: data}
	if data.EventType() != eventlog.TypeReceived {
		tr.Deployment = "web"
	}
	if _, err := f.log.Append(testContext(t), eventlog.Group{Transitions: []eventlog.Transition{tr}}); err != nil {
		t.Fatal(err)
	}
}

// superuser changes the log, and makes the hashes again that are missing at its end.
func (f *fixture) superuser(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.ConnectConfig(testContext(t), f.pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, table := range []string{"events", "event_hashes", "log_head"} {
		sql = "alter table " + table + " disable trigger all; " + sql
	}
	if err := pgx.BeginFunc(testContext(t), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(testContext(t), sql); err != nil {
			return err
		}
		return samplelog.Rehash(testContext(t), tx)
	}); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) kept(t *testing.T) int64 {
	t.Helper()
	signed, err := Kept(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(signed, f.key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	return c.N
}

func TestSignKeepsWhatItSigned(t *testing.T) {
	f := newFixture(t)
	s := f.signer(0)
	var before []byte
	for n := range 12 {
		f.append(t, eventlog.Received{Event: "push"})
		signed, c, err := s.Sign(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if c.N != int64(n+1) || f.kept(t) != c.N {
			t.Fatalf("signed %d of %d events, kept %d", c.N, n+1, f.kept(t))
		}
		again, _, err := f.signer(0).Sign(testContext(t)) // another process, and nothing new
		if err != nil || !bytes.Equal(again, signed) {
			t.Fatalf("signed again: %s, %v", again, err)
		}
		if bytes.Equal(signed, before) {
			t.Fatal("signed the same twice")
		}
		before = signed
	}
	v, err := f.log.Verify(testContext(t), eventlog.VerifyOptions{})
	if c, openErr := checkpoint.Open(before, f.key.Verifier()); err != nil || openErr != nil || c.Tree != v.Tree {
		t.Errorf("the log is %+v, signed was %+v, %v, %v", v.Tree, c.Tree, err, openErr)
	}
}

// Whatever is done to what was signed, nothing is signed over it; and what was
// appended since is looked at row by row.
func TestSignRefusesARewrittenLog(t *testing.T) {
	for name, sql := range map[string]string{
		"rewritten":              "update events set actor = 'eve' where position = 3; delete from event_hashes",
		"cut off":                "delete from events where position > 5; delete from event_hashes where position > 5; update log_head set position = 5, last_id = (select id from events where position = 5)",
		"hashes gone":            "delete from event_hashes where position <= 8",
		"edge changed":           "update event_hashes set hashes = set_byte(hashes, 97, 255 - get_byte(hashes, 97)) where position = 8",
		"new row changed":        "update events set actor = 'eve' where position = 12",
		"new row's hash changed": "update event_hashes set hashes = set_byte(hashes, 1, 255 - get_byte(hashes, 1)) where position = 12",
		"new row gone":           "delete from events where position = 11",
		"all gone":               "delete from events; delete from event_hashes; update log_head set position = 0, last_id = '00000000000000000000000000'",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			s := f.signer(0)
			for range 9 {
				f.append(t, eventlog.Received{Event: "push"})
			}
			if _, _, err := s.Sign(testContext(t)); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				f.append(t, eventlog.Received{Event: "push"})
			}
			f.superuser(t, sql)
			var refused *RefusedError
			if _, c, err := s.Sign(testContext(t)); !errors.As(err, &refused) || refused.Kept.N != 9 {
				t.Errorf("signed %+v, %v", c, err)
			}
			if f.kept(t) != 9 {
				t.Errorf("kept is of %d", f.kept(t))
			}
		})
	}
}

// The file is part of what is trusted: one that we did not sign is not built upon.
func TestKeptFileMustBeOurs(t *testing.T) {
	f := newFixture(t)
	f.append(t, eventlog.Received{Event: "push"})
	if _, _, err := f.signer(0).Sign(testContext(t)); err != nil {
		t.Fatal(err)
	}
	good, err := Kept(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := checkpoint.Generate("durhack-deployer/test")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := (checkpoint.Checkpoint{Origin: other.Name()}).Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"empty": {}, "of another key": foreign, "altered": bytes.Replace(good, []byte("\n1\n"), []byte("\n0\n"), 1)} {
		if err := os.WriteFile(Path(f.dir), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.signer(0).Sign(testContext(t)); err == nil {
			t.Errorf("%s: signed on top of it", name)
		}
		if left, err := Kept(f.dir); err != nil || !bytes.Equal(left, text) {
			t.Errorf("%s: was replaced, %v", name, err)
		}
	}
}

// run runs a signer until stop, which waits.
func (f *fixture) run(t *testing.T, s *Signer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestRunSignsAfterEachDeployAndWhenItsTimeHasCome(t *testing.T) {
	f := newFixture(t)
	f.append(t, eventlog.Received{Event: "push"})
	stop := f.run(t, f.signer(time.Hour))
	testkit.Wait(t, "the start", func() bool { return f.kept(t) == 1 })
	f.append(t, eventlog.Started{})
	f.append(t, eventlog.Deployed{})
	testkit.Wait(t, "a deploy", func() bool { return f.kept(t) == 3 })
	f.append(t, eventlog.Failed{})
	testkit.Wait(t, "a failure", func() bool { return f.kept(t) == 4 })
	stop()
	f.append(t, eventlog.Received{Event: "push"})
	stop = f.run(t, f.signer(10*time.Millisecond))
	defer stop()
	testkit.Wait(t, "the start", func() bool { return f.kept(t) == 5 })
	f.append(t, eventlog.Started{})
	testkit.Wait(t, "the interval", func() bool { return f.kept(t) == 6 })
	// It says loudly that it refuses, and goes on when all is as it was.
	f.superuser(t, "update events set actor = 'eve' where position = 6; delete from event_hashes")
	f.append(t, eventlog.Deployed{})
	testkit.Wait(t, "the refusal", func() bool { return strings.Contains(f.said.String(), "level=ERROR") })
	if f.kept(t) != 6 {
		t.Errorf("kept is of %d", f.kept(t))
	}
	f.superuser(t, "update events set actor = 'ann' where position = 6; delete from event_hashes")
	testkit.Wait(t, "the log to be as it was", func() bool { return f.kept(t) == 7 })
}

// A signer that is kept from signing says so, also where its attempt does not end.
func TestStarvedSignerSaysSo(t *testing.T) {
	f := newFixture(t)
	f.append(t, eventlog.Received{Event: "push"})
	s := f.signer(10 * time.Millisecond)
	s.o.Overdue = 100 * time.Millisecond
	stop := f.run(t, s)
	defer stop()
	testkit.Wait(t, "the first signature", func() bool { return f.kept(t) == 1 })
	_, release, err := lock.OfProcesses(f.dir).Acquire(testContext(t), fileName)
	if err != nil {
		t.Fatal(err)
	}
	f.append(t, eventlog.Received{Event: "push"})
	testkit.Wait(t, "the trouble", func() bool {
		return strings.Contains(s.Trouble(), "the log goes to position 2, and nothing after 1 is signed, since ")
	})
	testkit.Wait(t, "the error", func() bool { return strings.Contains(f.said.String(), "level=ERROR msg=\"the log is not signed") })
	if err := release(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the signature", func() bool { return f.kept(t) == 2 && s.Trouble() == "" })
}

// Events that were seen and not signed yet are missed when they are cut off.
func TestSignRefusesALogThatShrinks(t *testing.T) {
	f := newFixture(t)
	f.append(t, eventlog.Received{Event: "push"})
	s := f.signer(time.Hour)
	stop := f.run(t, s)
	testkit.Wait(t, "the first signature", func() bool { return f.kept(t) == 1 })
	for range 4 {
		f.append(t, eventlog.Received{Event: "push"})
	}
	testkit.Wait(t, "the signer to see them", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.seen == 5
	})
	stop()
	f.superuser(t, "delete from events where position > 3; delete from event_hashes where position > 3; update log_head set position = 3, last_id = (select id from events where position = 3)")
	var refused *RefusedError
	if _, c, err := s.Sign(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "it has gone to 5") || f.kept(t) != 1 {
		t.Errorf("signed %+v, %v", c, err)
	}
	// So it does when it is started again, until somebody starts another process.
	stop = f.run(t, s)
	defer stop()
	testkit.Wait(t, "the trouble", func() bool { return strings.Contains(s.Trouble(), "it has gone to 5") })
}

func TestCheckSaysSinceWhen(t *testing.T) {
	f := newFixture(t)
	f.append(t, eventlog.Received{Event: "push"})
	s := f.signer(0)
	if _, _, err := s.Sign(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Check(testContext(t)); err != nil || u != (Unsigned{}) {
		t.Errorf("unsigned are %+v, %v", u, err)
	}
	f.append(t, eventlog.Received{Event: "push"})
	f.append(t, eventlog.Received{Event: "push"})
	events, err := f.log.Read(testContext(t), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := s.Check(testContext(t)); err != nil || u.Events != 2 || !u.Since.Equal(events[0].RecordedAt) {
		t.Errorf("unsigned are %+v, %v; the first is of %s", u, err, events[0].RecordedAt)
	}
}
