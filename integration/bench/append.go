package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

const (
	inFlight   = 64
	deliveries = 1500 // a round, of four events each
	bareBatch  = 100
)

// appendEvents has 64 deliveries in flight, each appending one group after the
// other through one Log, and lets one bare connection insert the rows that came
// of it into another database, 100 to a commit.
func appendEvents(ctx context.Context, b *bench) (_ []result, err error) {
	pool, owner, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, owner.Close(ctx)) }()
	defer pool.Close()
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	defer log.Close()
	barePool, bare, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.Close(ctx)) }()
	barePool.Close()

	var rate, bareRate []float64
	position := int64(0)
	for round := -1; round < b.rounds; round++ { // the first one warms up
		took, err := appendRound(ctx, log, round)
		if err != nil {
			return nil, err
		}
		events, err := log.Read(ctx, position, 4*deliveries+1)
		if err != nil {
			return nil, err
		}
		if len(events) != 4*deliveries {
			return nil, fmt.Errorf("appended %d events, but the log has %d more", 4*deliveries, len(events))
		}
		position = events[len(events)-1].Position
		bareTook, err := insertBare(ctx, bare, events)
		if err != nil {
			return nil, err
		}
		if round >= 0 {
			b.round(round)
			rate = append(rate, float64(len(events))/took.Seconds())
			bareRate = append(bareRate, float64(len(events))/bareTook.Seconds())
		}
	}
	return []result{
		compare("events appended, 64 deliveries in flight", "1 connection, 100 a commit", "/s", rate, bareRate, target{min: 0.5}),
	}, nil
}

func appendRound(ctx context.Context, log *eventlog.Log, round int) (time.Duration, error) {
	work := make(chan []eventlog.Group, deliveries)
	for i := range deliveries {
		work <- groups(fmt.Sprintf("round-%d-delivery-%d", round+1, i))
	}
	close(work)
	failed := make([]error, inFlight)
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range inFlight {
		wg.Go(func() {
			for list := range work {
				for _, g := range list {
					if _, err := log.Append(ctx, g); err != nil {
						failed[w] = err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin), errors.Join(failed...)
}

// groups are what a push appends on its way: the router's, then the worker's
// start and end.
func groups(id string) []eventlog.Group {
	app := "app-" + id[len(id)-1:]
	transition := func(deployment string, d eventlog.Data) eventlog.Transition {
		return eventlog.Transition{Instance: "bench", DeliveryID: id, Deployment: deployment, Attempt: 1, Actor: "octocat", Data: d}
	}
	runLog := "/var/lib/durhack-deployer/runs/" + app + "/" + id + "-1.log"
	now := time.Now().UTC()
	return []eventlog.Group{
		{Transitions: []eventlog.Transition{
			transition("", eventlog.Received{
				Event: "push", Ref: "refs/heads/main", Repository: "octo/" + app, Commit: commit, HookID: "123456789", ReceivedAt: now,
				PayloadDigest: commit + commit[:24], PayloadSize: bodySize, ContentType: "application/json", Source: "github", Entry: "01J00000000000000000000000",
			}),
			transition(app, eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commit, Rule: "branch main of octo/" + app, ConfigDigest: commit + commit[:24]}}),
		}},
		{Transitions: []eventlog.Transition{transition(app, eventlog.Started{
			Commit: commit, PreviousCommit: commit, Host: "web-1", PID: 4242, Plan: []string{"fetch", "checkout", "install", "build", "restart"}, RunLog: runLog,
		})}},
		{Transitions: []eventlog.Transition{transition(app, eventlog.Deployed{
			Commit: commit, PreviousCommit: commit, DurationMS: 32043, RunLog: runLog, RunLogDigest: commit + commit[:24],
			Steps: []eventlog.Step{
				{Name: "fetch", DurationMS: 812, Result: "ok"}, {Name: "checkout", DurationMS: 95, Result: "ok"}, {Name: "install", DurationMS: 9312, Result: "ok"},
				{Name: "build", DurationMS: 21312, Result: "ok"}, {Name: "restart", DurationMS: 512, Result: "ok"},
			},
		})}},
	}
}

// insertBare is how a plain program would write the rows.
func insertBare(ctx context.Context, conn *pgx.Conn, events []eventlog.Event) (time.Duration, error) {
	const insert = `insert into public.events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	begin := time.Now()
	for first := 0; first < len(events); first += bareBatch {
		var batch pgx.Batch // one transaction
		for _, e := range events[first:min(first+bareBatch, len(events))] {
			batch.Queue(insert, e.Position, e.ID, e.Instance, e.DeliveryID, string(e.Type), e.Deployment, e.Attempt, e.Actor, e.RecordedAt, string(e.Data))
		}
		if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
			return 0, fmt.Errorf("insert rows: %w", err)
		}
	}
	return time.Since(begin), nil
}
