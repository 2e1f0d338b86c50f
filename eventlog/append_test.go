package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func payload(salt, body string) *Payload {
	of := sha256.Sum256([]byte(salt))
	sum := sha256.Sum256(append(of[:SaltSize:SaltSize], body...))
	return &Payload{Digest: hex.EncodeToString(sum[:]), Salt: of[:SaltSize], Body: []byte(body), ContentType: "application/json"}
}

func TestAppendReturnsWhatIsStored(t *testing.T) {
	l := newLog(t)
	appended := mustAppend(t, l, group(received("d1"), started("d1", "web", 1)))
	appended = append(appended, mustAppend(t, l, group(deployed("d1", "web", 1)))...)
	read, err := l.Read(testContext(t), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	scanned := all(t, l)
	if len(appended) != 3 || len(read) != 3 || len(scanned) != 3 {
		t.Fatalf("appended %d, read %d, scanned %d events; want 3 each", len(appended), len(read), len(scanned))
	}
	for i := range appended {
		if appended[i].Position != int64(i+1) || !sameEvent(appended[i], read[i]) || !sameEvent(appended[i], scanned[i]) {
			t.Errorf("event %d:\nappended %+v\nread     %+v\nscanned  %+v", i+1, appended[i], read[i], scanned[i])
		}
	}
	if head, err := l.Head(testContext(t)); err != nil || head != 3 {
		t.Errorf("head is %d, %v; want 3", head, err)
	}
}

func TestRepeatIsOneEvent(t *testing.T) {
	l := newLog(t)
	first := mustAppend(t, l, group(received("d1")))
	again := mustAppend(t, l, group(received("d1"), received("d1"), started("d1", "web", 1)))
	if !sameEvent(first[0], again[0]) || !sameEvent(first[0], again[1]) || again[2].Position != 2 {
		t.Errorf("got %+v after %+v", again, first)
	}
	if n := len(all(t, l)); n != 2 {
		t.Errorf("log has %d events, want 2", n)
	}
}

func TestConflictNamesWhatIsStored(t *testing.T) {
	l := newLog(t)
	mustAppend(t, l, group(received("d1"), started("d1", "web", 1)))
	otherActor, otherData := received("d1"), started("d1", "web", 1)
	otherActor.Actor = "mallory"
	otherData.Data = Started{Commit: "other"}
	for name, g := range map[string]Group{
		"actor":        group(received("d2"), otherActor),
		"data":         group(received("d2"), otherData),
		"in the group": group(started("d2", "web", 2), Transition{Instance: "test", DeliveryID: "d2", Deployment: "web", Attempt: 2, Data: Started{}}),
	} {
		_, err := l.Append(testContext(t), g)
		var c *ConflictError
		if !errors.As(err, &c) {
			t.Errorf("%s: got %v, want a *ConflictError", name, err)
		}
	}
	if n := len(all(t, l)); n != 2 {
		t.Errorf("log has %d events, want 2: refused groups must leave nothing", n)
	}
}

func TestFence(t *testing.T) {
	l := newLog(t)
	run1 := mustAppend(t, l, group(started("d1", "web", 1)))[0]
	fence1 := &Fence{Instance: "test", Deployment: "web", Position: run1.Position}
	mustAppend(t, l, group(started("d9", "api", 1))) // another deployment's run does not matter
	other := started("d9", "web", 1)
	other.Instance = "elsewhere"
	mustAppend(t, l, group(other)) // nor another instance's
	run2 := mustAppend(t, l, group(started("d2", "web", 1)))[0]

	late := Group{Transitions: []Transition{deployed("d1", "web", 1)}, Fence: fence1, Payload: payload("", "late")}
	if _, err := l.Append(testContext(t), late); !errors.Is(err, ErrFenced) {
		t.Fatalf("a result after its successor's start: got %v, want ErrFenced", err)
	}
	if _, err := l.Payload(testContext(t), late.Payload.Digest); !errors.Is(err, ErrNoPayload) {
		t.Errorf("the payload of a refused group: got %v, want ErrNoPayload", err)
	}
	end := Group{Transitions: []Transition{deployed("d2", "web", 1)}, Fence: &Fence{Instance: "test", Deployment: "web", Position: run2.Position}}
	first := mustAppend(t, l, end)
	mustAppend(t, l, group(started("d3", "web", 1)))
	// Once ended, a run has no second end, whoever brings it.
	for _, data := range []Data{Failed{Error: "late"}, Interrupted{Detail: "late"}, Started{Commit: "late"}} {
		second := group(Transition{Instance: "test", DeliveryID: "d2", Deployment: "web", Attempt: 9, Data: data})
		second.Fence = end.Fence
		if _, err := l.Append(testContext(t), second); !errors.Is(err, ErrFenced) {
			t.Errorf("%s of a run that has ended: got %v, want ErrFenced", data.EventType(), err)
		}
	}
	// What is recorded stays so, though the fence has moved on since.
	if again := mustAppend(t, l, end); !sameEvent(first[0], again[0]) {
		t.Errorf("repeat returned %+v, want %+v", again[0], first[0])
	}
	// A void is no event of a run: it does not move the fence.
	next := &Fence{Instance: "test", Deployment: "web", Position: mustAppend(t, l, group(started("d5", "web", 1)))[0].Position}
	mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: "d6", Deployment: "web", Attempt: 1, Data: Voided{Reason: ReasonStale}}))
	mustAppend(t, l, Group{Transitions: []Transition{
		{Instance: "test", DeliveryID: "d5", Deployment: "web", Attempt: 1, Data: Interrupted{Then: "fail"}},
		{Instance: "test", DeliveryID: "d5", Deployment: "web", Attempt: 1, Data: Failed{Error: "interrupted"}},
	}, Fence: next})
	// A start in the same commit fences too.
	results, err := l.AppendAll(testContext(t), []Group{
		group(started("d4", "new", 1)),
		{Transitions: []Transition{deployed("d4", "new", 1)}, Fence: &Fence{Instance: "test", Deployment: "new", Position: 0}},
	})
	if err != nil || results[0].Err != nil || !errors.Is(results[1].Err, ErrFenced) {
		t.Errorf("got %v, %v", results, err)
	}
}

// A worker that has decided on what it remembers must not run what another has
// voided since, although no run has moved the fence.
func TestFence_RefusesToStartWhatWasVoided(t *testing.T) {
	l := newLog(t)
	mustAppend(t, l, group(Transition{Instance: "test", DeliveryID: "d1", Deployment: "web", Attempt: 1, Data: Voided{Reason: ReasonSuperseded}}))
	start := func(delivery, deployment string, attempt int) error {
		g := group(started(delivery, deployment, attempt))
		g.Fence = &Fence{Instance: "test", Deployment: deployment}
		_, err := l.Append(testContext(t), g)
		return err
	}
	if err := start("d1", "web", 1); !errors.Is(err, ErrFenced) {
		t.Errorf("the attempt that was voided: got %v, want ErrFenced", err)
	}
	if err := errors.Join(start("d1", "api", 1), start("d1", "web", 2)); err != nil {
		t.Errorf("another deployment's, or another attempt: %v", err)
	}
}

// What was decided on a delivery's events is not recorded after another of them.
func TestFenceOfADelivery(t *testing.T) {
	l := newLog(t)
	first := mustAppend(t, l, group(received("d1"), started("d1", "web", 1)))[1]
	mustAppend(t, l, group(received("d2"))) // another delivery's events do not matter
	replayed := func(attempt int, position int64) Group {
		g := group(Transition{Instance: "test", DeliveryID: "d1", Attempt: attempt, Data: Replayed{Reason: "again"}})
		g.Fence = &Fence{Instance: "test", DeliveryID: "d1", Position: position}
		return g
	}
	second := mustAppend(t, l, replayed(2, first.Position))
	if again := mustAppend(t, l, replayed(2, first.Position)); !sameEvent(second[0], again[0]) {
		t.Errorf("repeat returned %+v, want %+v", again[0], second[0])
	}
	if _, err := l.Append(testContext(t), replayed(3, first.Position)); !errors.Is(err, ErrFenced) {
		t.Errorf("after another event: got %v, want ErrFenced", err)
	}
	// One in the same commit counts too.
	results, err := l.AppendAll(testContext(t), []Group{group(started("d1", "api", 1)), replayed(4, second[0].Position)})
	if err != nil || results[0].Err != nil || !errors.Is(results[1].Err, ErrFenced) {
		t.Errorf("got %v, %v", results, err)
	}
}

func TestPayloadIsKeptByteForByte(t *testing.T) {
	l := newLog(t)
	for i, body := range []string{"", "{}", "\x00\xff\xfe", strings.Repeat("{\"a\":1}\r\n", 200_000)} {
		p := payload(fmt.Sprint("salt", i), body)
		g := group(received(fmt.Sprint("d", i)))
		g.Payload = p
		mustAppend(t, l, g)
		mustAppend(t, l, g) // twice is once
		got, err := l.Payload(testContext(t), p.Digest)
		if err != nil || !bytes.Equal(got.Body, p.Body) || !bytes.Equal(got.Salt, p.Salt) || got.ContentType != p.ContentType {
			t.Errorf("payload %d differs: %v", i, err)
		}
	}
	wrong := group(received("wrong"))
	wrong.Payload = payload("", "a")
	wrong.Payload.Body = []byte("b")
	if _, err := l.Append(testContext(t), wrong); err == nil {
		t.Error("a payload that is not what its digest says was stored")
	}
}

func TestTextThatPostgresCannotHold(t *testing.T) {
	l := newLog(t)
	nasty := "a\x00b\xffc\x1b[31m<script>\n"
	e := mustAppend(t, l, group(Transition{
		Instance: nasty, DeliveryID: nasty, Deployment: nasty, Attempt: 1, Actor: nasty + strings.Repeat("\u00e9", 300),
		Data: Failed{Error: nasty, OutputTail: nasty},
	}))[0]
	want := "a\uFFFDb\uFFFDc\x1b[31m<script>\n"
	if e.Instance != want || e.DeliveryID != want || e.DeploymentSlug() != want || !strings.HasPrefix(e.Actor, want) || len(e.Actor) > maxActor {
		t.Errorf("stored %+v", e)
	}
	if got := all(t, l)[0]; !sameEvent(got, e) {
		t.Errorf("read %+v, appended %+v", got, e)
	}
	data, err := e.Decode()
	if err != nil {
		t.Fatal(err)
	}
	if got := data.(Failed).Error; got != strings.ToValidUTF8(nasty, "\uFFFD") {
		t.Errorf("data has %q", got)
	}
}

// A group that the database refuses must not take down those that share its commit.
func TestRefusedGroupIsAlone(t *testing.T) {
	l := newLog(t)
	long := received(strings.Repeat("x", 256))
	results, err := l.AppendAll(testContext(t), []Group{
		group(received("d1")), group(received("d2"), long), group(received("d3")), group(), group(Transition{DeliveryID: "d4"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var pg *pgconn.PgError
	if results[0].Err != nil || results[2].Err != nil || !errors.As(results[1].Err, &pg) || !Refused(results[1].Err) || results[3].Err == nil || results[4].Err == nil {
		t.Fatalf("results: %+v", results)
	}
	if events := all(t, l); len(events) != 2 || events[1].DeliveryID != "d3" {
		t.Errorf("log has %+v", events)
	}
}

func TestAppend_ManyGroupsKeepTheirOrderAcrossBatches(t *testing.T) {
	l := newLog(t)
	var groups []Group
	for n := range 3*maxBatchRows + 7 {
		groups = append(groups, group(received(fmt.Sprint("d", n))))
	}
	results, err := l.AppendAll(testContext(t), groups)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Err != nil || r.Events[0].Position != int64(i+1) {
			t.Fatalf("group %d: %+v", i, r)
		}
	}
}

// The head is locked by another session, so nothing can be committed.
func TestCallerWhoLeavesDoesNotHoldUpOthers(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	tx, err := superuser(t, pool).Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(testContext(t), "select 1 from log_head for update"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Append(ctx, group(received("left"))); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
	stayed := make(chan error, 1)
	wg.Go(func() {
		_, err := l.Append(testContext(t), group(received("stayed")))
		stayed <- err
	})
	cancel()
	if err := tx.Rollback(testContext(t)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := <-stayed; err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, group(received("late"))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestCloseFailsWhatWaits(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := Open(pool, quiet)
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if _, err := l.Append(testContext(t), group(received(fmt.Sprint("d", n, "-", i)))); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("got %v, want ErrClosed", err)
					}
					return
				}
			}
		})
	}
	for len(all(t, l)) < 50 {
		time.Sleep(time.Millisecond)
	}
	l.Close()
	l.Close()
	wg.Wait()
	if _, err := l.Append(testContext(t), group(received("late"))); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if err := l.Follow(testContext(t), 0, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// Several processes append the same and different deliveries while a follower watches.
func TestAppend_ManyLogsOneOrder(t *testing.T) {
	dsn := pgtest.DSN(t)
	pools := []*Log{openLog(t, migrate(t, dsn))}
	for range 3 {
		pools = append(pools, openLog(t, pgtest.Pool(t, dsn)))
	}
	const workers, shared, own = 4, 40, 20
	total := int64(shared + len(pools)*workers*own)

	var followed []Event
	done := errors.New("all seen")
	follower := make(chan error, 1)
	reader := openLog(t, pgtest.Pool(t, dsn))
	ctx := testContext(t)
	go func() {
		follower <- reader.Follow(ctx, 0, func(_ context.Context, events []Event) error {
			followed = append(followed, events...)
			if int64(len(followed)) == total {
				return done
			}
			return nil
		})
	}()

	var mu sync.Mutex
	byDelivery := map[string]Event{}
	var wg sync.WaitGroup
	for p, l := range pools {
		for w := range workers {
			wg.Go(func() {
				for i := range shared {
					id := fmt.Sprint("shared-", i)
					if i%2 == w%2 {
						id = fmt.Sprint("shared-", shared-1-i)
					}
					events, err := l.Append(ctx, group(received(id)))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if seen, ok := byDelivery[id]; ok && !sameEvent(seen, events[0]) {
						t.Errorf("%s is two events: %+v and %+v", id, seen, events[0])
					}
					byDelivery[id] = events[0]
					mu.Unlock()
					if i < own {
						if _, err := l.Append(ctx, group(received(fmt.Sprintf("own-%d-%d-%d", p, w, i)))); err != nil {
							t.Error(err)
							return
						}
					}
					// Both halves, so that all are covered whatever the parity.
					if _, err := l.Append(ctx, group(received(fmt.Sprint("shared-", i)))); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if err := <-follower; !errors.Is(err, done) {
		t.Fatalf("follower ended with %v after %d of %d events", err, len(followed), total)
	}
	last := ""
	for i, e := range followed {
		if e.Position != int64(i+1) || e.ID <= last {
			t.Fatalf("event %d has position %d and ID %s after %s", i+1, e.Position, e.ID, last)
		}
		last = e.ID
	}
	if n := int64(len(all(t, reader))); n != total {
		t.Errorf("log has %d events, want %d", n, total)
	}
}

// A server whose clock was ahead and has stepped back goes on: the log's time stands
// still until the clock has caught up.
func TestAppendAfterTheClockHasSteppedBack(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	mustAppend(t, l, group(received("d1")))
	ahead := time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := superuser(t, pool).Exec(testContext(t), `insert into events (`+eventColumns+`)
		select 2, '3ZZZZZZZZZ0000000000000000', 'test', 'd2', 'voided', null, 1, 'o', $1, '{"v":1}'`, ahead); err != nil {
		t.Fatal(err)
	}
	if _, err := superuser(t, pool).Exec(testContext(t), `update log_head set position = 2, last_id = '3ZZZZZZZZZ0000000000000000'`); err != nil {
		t.Fatal(err)
	}
	rehash(t, superuser(t, pool))
	for n := range 5 {
		if e := mustAppend(t, l, group(received(fmt.Sprint("later", n))))[0]; !e.RecordedAt.Equal(ahead) {
			t.Errorf("recorded at %s, want %s", e.RecordedAt, ahead)
		}
	}
	sound(t, l, true)
}
