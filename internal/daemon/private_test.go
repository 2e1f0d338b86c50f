package daemon

import (
	"os"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestOverlooked(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir, err := os.MkdirTemp("", "dd-") // a socket must be in a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may run as another user
		t.Fatal(err)
	}
	cfg := &config.Config{Instance: "test", StateDir: dir, DatabaseURL: pgtest.DSN(t)}
	store, err := OpenStore(ctx, cfg, quiet, true)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	look := func(want int64) {
		t.Helper()
		if got, err := Overlooked(ctx, cfg, store, quiet); got != want || err != nil {
			t.Errorf("overlooked %d events, %v; want %d", got, err, want)
		}
	}
	push := func(store *Store) {
		t.Helper()
		_, err := store.Log.Append(ctx, eventlog.Group{Transitions: []eventlog.Transition{{
			Instance: "test", DeliveryID: "d1", Attempt: 1, Actor: "ann", Data: eventlog.Received{Event: "push", Source: eventlog.SourceGitHub},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	look(0) // no private cluster

	own := *cfg
	own.DatabaseURL = ""
	private, err := OpenStore(ctx, &own, quiet, false)
	if err != nil {
		t.Fatal(err)
	}
	look(0) // an empty one
	push(private)
	if got, err := Overlooked(ctx, &own, private, quiet); got != 0 || err != nil {
		t.Errorf("the private cluster itself: %d, %v", got, err)
	}
	private.Close()
	look(1)     // and stopped
	push(store) // the configured log is in use
	look(0)
}
