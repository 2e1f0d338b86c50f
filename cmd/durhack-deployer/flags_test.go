package main

import (
	"testing"
	"time"
)

func TestAgo(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "just now", 999 * time.Millisecond: "just now", -time.Hour: "just now", time.Second: "1s ago",
		59 * time.Second: "59s ago", time.Minute: "1m ago", time.Hour: "1h00m ago", 47*time.Hour + 59*time.Minute: "47h59m ago",
		48 * time.Hour: "2d ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("ago(%s) = %q, want %q", d, got, want)
		}
	}
}
