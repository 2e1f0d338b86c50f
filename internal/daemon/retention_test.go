package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestRemoveOldRuns_KeepsTheLastAndTheLive(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, pgtest.MigratedDSN(t))
	store := &Store{Pool: pool, Log: eventlog.Open(pool, quiet)}
	t.Cleanup(store.Log.Close)
	cfg := &config.Config{Instance: "test", StateDir: t.TempDir()}
	record := func(slug, delivery string, attempt int, data eventlog.Data) {
		t.Helper()
		if _, err := store.Log.Append(t.Context(), eventlog.Group{Transitions: []eventlog.Transition{
			{Instance: cfg.Instance, DeliveryID: delivery, Deployment: slug, Attempt: attempt, Actor: "sam", Data: data},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, run := range []struct {
		delivery string
		attempt  int
		live     bool
	}{{"first", 1, true}, {"live", 1, false}, {"live", 2, true}, {"bad", 1, false}, {"last", 1, false}} {
		record("web", run.delivery, run.attempt, eventlog.Started{Commit: "c", Host: "h", Plan: []string{"fetch"}})
		if run.live {
			record("web", run.delivery, run.attempt, eventlog.Deployed{Commit: "c", Steps: []eventlog.Step{}})
		} else {
			record("web", run.delivery, run.attempt, eventlog.Failed{Commit: "c", Step: "fetch", Error: "e", Steps: []eventlog.Step{}})
		}
	}
	now := time.Now()
	runs := filepath.Join(cfg.StateDir, "runs")
	for name, days := range map[string]int{
		"web/first-1.log": 91, "web/first-1.result.json": 91, "web/live-1.log": 300, "web/live-2.log": 300, "web/bad-1.log": 89,
		"web/last-1.log": 200, "web/last-1.process": 200, "web/notes": 999, "removed/old-1.log": 100, "removed/new-1.log": 10,
	} {
		path := filepath.Join(runs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := now.AddDate(0, 0, -days)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "outside.log")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := now.AddDate(-1, 0, 0)
	if err := os.Chtimes(filepath.Dir(outside), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(runs, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(outside, old, old); err != nil {
		t.Fatal(err)
	}
	all := func() []string {
		found, err := filepath.Glob(filepath.Join(runs, "*/*"))
		if err != nil {
			t.Fatal(err)
		}
		for i, path := range found {
			found[i], _ = filepath.Rel(runs, path)
		}
		return found
	}
	before := all()
	if err := removeOldRuns(t.Context(), cfg, store, quiet, now); err != nil || !slices.Equal(all(), before) {
		t.Errorf("without a bound %q are left of %q, %v", all(), before, err)
	}
	cfg.Retention.RunLogs = 90 * 24 * time.Hour
	want := []string{"link/outside.log", "removed/new-1.log", "web/bad-1.log", "web/last-1.log", "web/last-1.process", "web/live-2.log", "web/notes"}
	for range 2 {
		if err := removeOldRuns(t.Context(), cfg, store, quiet, now); err != nil || !slices.Equal(all(), want) {
			t.Errorf("left are %q, %v; want %q", all(), err, want)
		}
	}
}
