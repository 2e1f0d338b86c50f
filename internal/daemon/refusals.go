package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

const (
	// refusedFor is how long a refusal is remembered, and refusedEvery how often
	// what is new is written.
	refusedFor   = time.Hour
	refusedEvery = 5 * time.Second
)

// refusals counts the webhooks that the listener refused, by minute and reason. They
// are kept in a hidden file of the main queue, which is all that a listener of its
// own shares with those who ask.
type refusals struct {
	path string
	log  *slog.Logger

	mu sync.Mutex
	// minutes are counts by reason, by minutes since 1970.
	minutes map[int64]map[string]int
	changed bool
}

func refusalsPath(cfg *config.Config) string {
	return filepath.Join(cfg.QueueDir(names.MainQueue), ".refused")
}

func openRefusals(cfg *config.Config, log *slog.Logger) *refusals {
	r := &refusals{path: refusalsPath(cfg), log: log}
	var err error
	if r.minutes, err = readRefusals(r.path); err != nil {
		log.Warn("earlier refused requests are not counted", "error", err)
		r.minutes = map[int64]map[string]int{}
	}
	return r
}

func readRefusals(path string) (map[int64]map[string]int, error) {
	minutes := map[int64]map[string]int{}
	if _, err := durable.ReadJSON(path, &minutes); err != nil {
		return nil, fmt.Errorf("read the refused requests: %w", err)
	}
	return minutes, nil
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

func (r *refusals) add(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := minuteOf(time.Now())
	if r.minutes[now] == nil {
		r.minutes[now] = map[string]int{}
		maps.DeleteFunc(r.minutes, func(m int64, _ map[string]int) bool { return m < minuteOf(time.Now().Add(-refusedFor)) })
	}
	r.minutes[now][reason]++
	r.changed = true
}

// keep writes what is new, now and then and when ctx ends.
func (r *refusals) keep(ctx context.Context) {
	outage := retry.New(r.log, slog.LevelWarn, "the refused requests cannot be counted for doctor")
	for more := true; more; {
		more = retry.Sleep(ctx, refusedEvery)
		if err := r.save(); err != nil {
			outage.Failed(err)
		} else {
			outage.Over()
		}
	}
}

func (r *refusals) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.changed {
		return nil
	}
	raw, err := json.Marshal(r.minutes)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".new", raw, 0o640); err != nil { //nolint:gosec // the group of the queue reads it
		return err
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		return err
	}
	r.changed = false
	return nil
}

// Refused counts by reason the webhooks that were refused within the last hour.
func Refused(cfg *config.Config) (map[string]int, error) {
	minutes, err := readRefusals(refusalsPath(cfg))
	counts := map[string]int{}
	for m, reasons := range minutes {
		if m < minuteOf(time.Now().Add(-refusedFor)) {
			continue
		}
		for reason, n := range reasons {
			counts[reason] += n
		}
	}
	return counts, err
}
