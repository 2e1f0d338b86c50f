package main

import (
	"testing"
	"time"
)

func TestProgressLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		done, total, did int64
		took             time.Duration
		want             string
	}{
		{0, 0, 0, 0, "0 events"},
		{0, 1000, 0, time.Second, "0 of 1000 events (0%)"},
		{10, 1000, 10, time.Millisecond, "10 of 1000 events (1%)"},
		{250_000, 1_000_000, 250_000, 3 * time.Second, "250000 of 1000000 events (25%), 83333/s, 9s left"},
		{500, 1000, 100, time.Second, "500 of 1000 events (50%), 100/s, 5s left"},
		{1000, 1000, 1000, time.Second, "1000 of 1000 events (100%), 1000/s"},
		{1200, 1000, 1200, time.Second, "1200 of 1000 events (120%), 1200/s"},
		{1, 1_000_000, 1, time.Second, "1 of 1000000 events (0%), 1/s, 277h46m39s left"},
	} {
		if got := progressLine("events", test.done, test.total, test.did, test.took); got != test.want {
			t.Errorf("%d of %d: %q, want %q", test.done, test.total, got, test.want)
		}
	}
}
