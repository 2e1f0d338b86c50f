package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

var quiet = slog.New(slog.DiscardHandler)

// open returns a projector on the pool; its log is closed with the test.
func open(t testing.TB, pool *pgxpool.Pool) *Projector {
	t.Helper()
	log := eventlog.Open(pool, quiet, eventlog.WithPoll(20*time.Millisecond))
	t.Cleanup(log.Close)
	return New(pool, log, quiet)
}

// asOwner runs SQL with the rights that the application does not have.
func asOwner(t testing.TB, pool *pgxpool.Pool, do func(tx pgx.Tx) error) {
	t.Helper()
	err := pgx.BeginFunc(context.Background(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(context.Background(), "set local role none"); err != nil {
			return err
		}
		return do(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// build makes the tables of the projector's version from what the log holds.
func build(t testing.TB, p *Projector) {
	t.Helper()
	if err := p.first(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// put writes events into the log as they are, whatever they are.
func put(t testing.TB, pool *pgxpool.Pool, events []eventlog.Event) {
	t.Helper()
	if len(events) == 0 {
		return
	}
	asOwner(t, pool, func(tx pgx.Tx) error {
		ctx := context.Background()
		columns := []string{"position", "id", "instance", "delivery_id", "type", "deployment", "attempt", "actor", "recorded_at", "data"}
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"public", "events"}, columns, pgx.CopyFromSlice(len(events), func(i int) ([]any, error) {
			e := events[i]
			return []any{e.Position, e.ID, e.Instance, e.DeliveryID, string(e.Type), e.Deployment, e.Attempt, e.Actor, e.RecordedAt, string(e.Data)}, nil
		}))
		if err != nil {
			return err
		}
		last := events[len(events)-1]
		_, err = tx.Exec(ctx, "update public.log_head set position = $1, last_id = $2", last.Position, last.ID)
		return err
	})
}

// dump is every row of the read models, in order.
func dump(t testing.TB, pool *pgxpool.Pool) []string {
	t.Helper()
	var lines []string
	for _, table := range tables() {
		rows, err := pool.Query(context.Background(), fmt.Sprintf("select '%s ' || row_to_json(t)::text from %s t order by %s",
			table.name, table.in(place{version: Version}), strings.Join(table.key, ", ")))
		if err != nil {
			t.Fatal(err)
		}
		some, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, some...)
	}
	return lines
}

// sameAsFold compares what the tables give back with a fold in memory.
func sameAsFold(t testing.TB, p *Projector, s *State) {
	t.Helper()
	deployments, err := p.Deployments(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "deployments", deployments, s.Deployments(""))
	attempts, err := p.Attempts(t.Context(), AttemptFilter{})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(attempts, func(a, b Attempt) int {
		return strings.Compare(fmt.Sprintf("%s\x00%s\x00%s\x00%06d", a.Instance, a.DeliveryID, a.Deployment, a.Attempt),
			fmt.Sprintf("%s\x00%s\x00%s\x00%06d", b.Instance, b.DeliveryID, b.Deployment, b.Attempt))
	})
	same(t, "attempts", attempts, s.Attempts(""))
	sameInPages(t, p, deployments)
	for _, want := range s.Deliveries("") {
		got, err := p.Delivery(t.Context(), want.Instance, want.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "delivery", got, want)
	}
}

// sameInPages compares the attempts of each deployment with its pages, and its runs with those
// that are read for all at once.
func sameInPages(t testing.TB, p *Projector, deployments []Deployment) {
	t.Helper()
	var keys []Key
	for _, d := range deployments {
		keys = append(keys, Key{d.Instance, d.Slug})
	}
	const most = 3
	runs, err := p.Runs(t.Context(), keys, most)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		all := AttemptFilter{Instance: k.Instance, Deployment: k.Slug}
		want, err := p.Attempts(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		want = slices.DeleteFunc(want, func(a Attempt) bool { return a.AssignedPosition == 0 }) // a breach has no place
		var got []Attempt
		for all.Limit = 2; ; {
			page, err := p.Attempts(t.Context(), all)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, slices.DeleteFunc(page, func(a Attempt) bool { return a.AssignedPosition == 0 })...)
			if len(page) < all.Limit || len(got) == 0 {
				break
			}
			last := got[len(got)-1]
			all.Before = Place{last.AssignedPosition, last.Attempt}
		}
		same(t, "pages of attempts", append([]Attempt{}, got...), append([]Attempt{}, want...))
		want = slices.DeleteFunc(want, func(a Attempt) bool { return a.StartedPosition == 0 })
		same(t, "newest runs", append([]Attempt{}, slices.DeleteFunc(runs[k], func(a Attempt) bool { return a.AssignedPosition == 0 })...), append([]Attempt{}, want[:min(most, len(want))]...))
	}
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return
	}
	a, _ := json.MarshalIndent(got, "", " ")
	b, _ := json.MarshalIndent(want, "", " ")
	if string(a) != string(b) {
		t.Fatalf("%s from the tables:\n%s\nfrom memory:\n%s", what, a, b)
	}
}

// catchUp applies what is new, in batches of the sizes that next gives.
func catchUp(t testing.TB, p *Projector, events []eventlog.Event, next func(left int) int) {
	t.Helper()
	for len(events) > 0 {
		n := next(len(events))
		reached, err := p.apply(t.Context(), events[0].Position-1, events[:n])
		if err != nil || reached != events[n-1].Position {
			t.Fatalf("apply %d events after %d: reached %d, %v", n, events[0].Position-1, reached, err)
		}
		events = events[n:]
	}
}

// running runs projectors until stop, which waits for them.
func running(t testing.TB, projectors ...*Projector) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, p := range projectors {
		all.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

func behind(t testing.TB, p *Projector) int64 {
	lag, err := p.Lag(t.Context())
	if err != nil {
		return -1 // a test may have cut the connection
	}
	return lag.Events
}
