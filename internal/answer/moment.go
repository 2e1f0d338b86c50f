package answer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Moment is a point of the log: a position or a time. The zero one is now.
type Moment struct {
	Position int64
	Time     time.Time
	Set      bool
}

// fold folds the log up to the moment. Of a position, the event there is the
// last one that counts; of a time, those recorded before it do.
func (m Moment) fold(ctx context.Context, log *eventlog.Log, instance string) (*projections.State, error) {
	if m.Time.IsZero() {
		head, err := log.Head(ctx)
		if err != nil {
			return nil, err
		}
		if m.Position > head {
			return nil, &Error{err: fmt.Errorf("--at: the log ends at position %d, so it has no %d", head, m.Position)}
		}
		if m.Position == 0 {
			return projections.NewState(), nil
		}
	}
	return projections.FoldOpen(m.events(ctx, log, instance))
}

// events are those of the instance that count. All positions up to the moment are
// read: where one is missing, what was live then cannot be told, which is an error.
func (m Moment) events(ctx context.Context, log *eventlog.Log, instance string) iter.Seq2[eventlog.Event, error] {
	return func(yield func(eventlog.Event, error) bool) {
		stop, left := errors.New("enough"), false
		err := log.Scan(ctx, 0, func(events []eventlog.Event) error {
			for _, e := range events {
				if e.Instance == instance && (m.Time.IsZero() || e.RecordedAt.Before(m.Time)) {
					e.Data = bytes.Clone(e.Data)
					if left = !yield(e, nil); left {
						return stop
					}
				}
				if e.Position == m.Position {
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

// when is the time of the moment; that of a position is when its event was recorded.
func (m Moment) when(ctx context.Context, log *eventlog.Log) (time.Time, error) {
	if !m.Set {
		return time.Now(), nil
	}
	for e, err := range log.Find(ctx, eventlog.Filter{Positions: []int64{m.Position}}) {
		return e.RecordedAt, err
	}
	return m.Time, nil
}

func (m Moment) String() string {
	if m.Time.IsZero() {
		return fmt.Sprintf("position %d", m.Position)
	}
	return words.Clock(m.Time)
}
