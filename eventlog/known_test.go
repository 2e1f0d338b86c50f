package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// tripCounter counts the batches that are sent: the round trips of an append, once
// its statements are prepared.
type tripCounter struct{ atomic.Int64 }

func (c *tripCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (c *tripCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *tripCounter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.Add(1)
	return ctx
}
func (c *tripCounter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *tripCounter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// Whoever appended last knows the head, and sends all of an append at once. What is
// found to be otherwise is decided again with what there is.
func TestAppend_KnowsTheHead(t *testing.T) {
	ctx := testContext(t)
	pool := migrate(t, pgtest.DSN(t))
	var trips tripCounter
	config := pool.Config()
	config.ConnConfig.Tracer = &trips
	counted, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(counted.Close)
	ours, others := openLog(t, counted), openLog(t, pool)
	body := func(id string) Group {
		p, r := payload("salt of "+id, "body of "+id), received(id)
		data := r.Data.(Received)
		data.PayloadDigest, data.PayloadSize, data.ContentType = p.Digest, int64(len(p.Body)), p.ContentType
		r.Data = data
		return Group{Transitions: []Transition{r}, Payload: p}
	}
	fenced := func(id string, f Fence) Group {
		f.Instance = "test"
		return Group{Transitions: []Transition{started(id, "web", 1)}, Fence: &f}
	}
	mustAppend(t, ours, group(received("first")))
	refused := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	conflict := started("b", "web", 1)
	conflict.Actor = "eve"
	for _, c := range []struct {
		name  string
		g     Group
		trips int64
		err   func(error) bool
	}{
		{"plain", group(received("a"), received("b")), 1, nil},
		{"with a body", body("c"), 1, nil},
		{"of a first run", fenced("b", Fence{Deployment: "web"}), 1, nil},
		{"of a run that has gone on", fenced("c", Fence{Deployment: "web"}), 2, refused(ErrFenced)},
		{"of a delivery that has gone on", fenced("c", Fence{DeliveryID: "c", Position: 1}), 2, refused(ErrFenced)},
		{"of a delivery as it was", fenced("c", Fence{DeliveryID: "c", Position: 4}), 1, nil},
		{"of a void", group(Transition{Instance: "test", DeliveryID: "d", Deployment: "api", Attempt: 1, Data: Voided{Reason: ReasonSuperseded}}), 1, nil},
		{"of a run that was voided", Group{Transitions: []Transition{started("d", "api", 1)}, Fence: &Fence{Instance: "test", Deployment: "api"}}, 2, refused(ErrFenced)},
		{"again", group(received("a")), 2, nil},
		{"after a repetition", group(received("d")), 1, nil},
		{"in conflict", group(conflict), 2, func(err error) bool { return errors.As(err, new(*ConflictError)) }},
		{"of a redaction", group(Transition{Instance: "test", DeliveryID: "c", Attempt: 1, Actor: "ann", Data: Redacted{Reason: "r", PayloadDigests: []string{body("c").Payload.Digest}}}), 2, nil},
		{"of a body that was redacted", Group{Transitions: []Transition{{Instance: "test", DeliveryID: "c", Attempt: 2, Data: Redelivered{Action: ActionIgnored}}},
			Payload: payload("s", "t")}, 2, refused(ErrRedacted)},
		{"after that", group(received("e")), 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := trips.Load()
			_, err := ours.Append(ctx, c.g)
			if c.err == nil && err != nil || c.err != nil && !c.err(err) {
				t.Errorf("append: %v", err)
			}
			if n := trips.Load() - before; n != c.trips {
				t.Errorf("it took %d batches, want %d", n, c.trips)
			}
		})
	}
	for n := range 3 {
		mustAppend(t, others, group(received(fmt.Sprint("other-", n))))
		mustAppend(t, ours, body(fmt.Sprint("ours-", n)))
	}
	for _, step := range []time.Duration{time.Hour, -time.Hour, -2 * time.Second} {
		ours.known.ahead += step // as if a clock was set
		e := mustAppend(t, ours, group(received("clock "+step.String())))[0]
		if off := time.Since(e.RecordedAt); off.Abs() > 30*time.Second {
			t.Errorf("recorded %v from now", off)
		}
	}
	sound(t, ours, false)
}
