package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// A run that waited while the newest one was looked up, and does not any more when it
// is asked what waits, is the newest one.
func TestLogs_FollowsTheRunThatBeginsMeanwhile(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dsn := pgtest.MigratedDSN(t)
	cfg := &config.Config{Instance: "test", StateDir: filepath.Join(t.TempDir(), "state"), DatabaseURL: dsn, Deployments: map[string]*config.Deployment{"app": {Slug: "app"}}}
	store, err := daemon.OpenStore(ctx, cfg, discard(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	record := func(delivery string, data ...eventlog.Data) {
		t.Helper()
		var g eventlog.Group
		for _, d := range data {
			g.Transitions = append(g.Transitions, eventlog.Transition{Instance: "test", DeliveryID: delivery, Deployment: "app", Attempt: 1, Data: d})
		}
		if _, err := store.Log.Append(ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	record("old", eventlog.Forwarded{}, eventlog.Started{}, eventlog.Failed{})
	record("new", eventlog.Forwarded{})
	if err := projections.New(store.Pool, store.Log, discard()).Rebuild(ctx, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, "lock table projections.checkpoints in access exclusive mode")
	}
	if err != nil {
		t.Fatal(err)
	}
	var said testkit.Buffer
	c := &cli{streams: streams{out: &said, err: &said}}
	ended := make(chan error, 1)
	go func() { ended <- c.logs(ctx, cfg, store, "app", logsOptions{follow: true}) }()
	testkit.Wait(t, "it asks what waits", func() (asks bool) {
		const q = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
		if err := tx.QueryRow(ctx, q).Scan(&asks); err != nil {
			t.Fatal(err)
		}
		return asks
	})
	record("new", eventlog.Started{}, eventlog.Failed{})
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	err = <-ended // that there is no file
	if text := said.String(); err == nil || !strings.Contains(text, "the run log of app, delivery new, attempt 1") {
		t.Errorf("%v\n%s", err, text)
	}
}
