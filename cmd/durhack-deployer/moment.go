package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// moment is a point of the log: a position or a time. The zero one is now.
type moment struct {
	position int64
	time     time.Time
	set      bool
}

// parseMoment reads a position, which is digits only, or a time.
func parseMoment(s string, now time.Time) (moment, error) {
	if s == "" {
		return moment{}, nil
	}
	if digits(s) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return moment{}, usagef("--at: %s is not a position of any log", s)
		}
		return moment{position: n, set: true}, nil
	}
	t, err := parseTime(s, now)
	if err != nil {
		return moment{}, usagef("--at: %w; or a position of the log: digits only", err)
	}
	return moment{time: t, set: true}, nil
}

func digits(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

// fold folds the log up to the moment. Of a position, the event there is the
// last one that counts; of a time, those recorded before it do.
func (m moment) fold(ctx context.Context, store *daemon.Store, instance string) (*projections.State, error) {
	if m.time.IsZero() {
		head, err := store.Log.Head(ctx)
		if err != nil {
			return nil, err
		}
		if m.position > head {
			return nil, usagef("--at: the log ends at position %d, so it has no %d", head, m.position)
		}
		if m.position == 0 {
			return projections.NewState(), nil
		}
	}
	return projections.FoldAt(m.events(ctx, store.Log, instance))
}

// events are those of the instance that count. All positions up to the moment are
// read: where one is missing, what was live then cannot be told, which is an error.
func (m moment) events(ctx context.Context, log *eventlog.Log, instance string) iter.Seq2[eventlog.Event, error] {
	return func(yield func(eventlog.Event, error) bool) {
		stop, left := errors.New("enough"), false
		err := log.Scan(ctx, 0, func(events []eventlog.Event) error {
			for _, e := range events {
				if e.Instance == instance && (m.time.IsZero() || e.RecordedAt.Before(m.time)) {
					e.Data = bytes.Clone(e.Data)
					if left = !yield(e, nil); left {
						return stop
					}
				}
				if e.Position == m.position {
					return stop
				}
			}
			return nil
		})
		if err != nil && !left && !errors.Is(err, stop) {
			yield(eventlog.Event{}, err)
		}
	}
}

func (m moment) String() string {
	if m.time.IsZero() {
		return fmt.Sprintf("position %d", m.position)
	}
	return clock(m.time)
}
