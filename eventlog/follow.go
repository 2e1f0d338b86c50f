package eventlog

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

const (
	// followLimit and followBytes bound what apply is handed at once.
	followLimit = 1000
	followBytes = 8 << 20
)

// Follow hands apply every event after the position, in order and without a
// gap, as they are committed, in batches that fit one transaction of a
// projection. It returns when ctx ends (its error), when a position is missing
// (*HoleError: a hole is never waited for), when apply fails (its error as it
// is), or when the Log is closed (ErrClosed); during an outage of the database
// it waits and goes on.
//
// Being woken is only a hint; a look now and then, at the interval of WithPoll,
// is what makes it correct.
func (l *Log) Follow(ctx context.Context, after int64, apply func(ctx context.Context, events []Event) error) error {
	wake, leave, ok := l.follow()
	if !ok {
		return ErrClosed
	}
	defer leave()
	open, end := l.whileOpen(ctx)
	defer end()
	poll := time.NewTicker(l.poll)
	defer poll.Stop()
	var ear ear
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.isStopping() {
			return ErrClosed
		}
		events, err := l.next(ctx, after)
		var hole *HoleError
		switch {
		case errors.As(err, &hole):
			return err
		case err != nil:
			if ctx.Err() != nil {
				continue
			}
			retry.Sleep(open, l.follows.Failed(err))
			continue
		}
		l.follows.Over()
		if len(events) > 0 {
			if err := apply(ctx, events); err != nil {
				return err
			}
			after = events[len(events)-1].Position
			continue
		}
		if l.lone {
			if err := l.hear(open, &ear); err != nil && open.Err() == nil {
				retry.Sleep(open, l.follows.Failed(err))
			}
			continue
		}
		select {
		case <-open.Done():
		case <-wake:
		case <-poll.C:
		}
	}
}

// next is what follows the position: what this process has just committed, or else
// what is read.
func (l *Log) next(ctx context.Context, after int64) ([]Event, error) {
	if recent := l.recent.Load(); recent != nil {
		first := (*recent)[0].Position
		if i := after + 1 - first; i >= 0 && i < int64(len(*recent)) {
			return slices.Clone((*recent)[i:]), nil
		}
	}
	return l.readWithin(ctx, after)
}

// readWithin reads the next batch; a server that has gone silent, as one behind a
// broken network does, is an error in the end.
func (l *Log) readWithin(ctx context.Context, after int64) ([]Event, error) {
	ctx, cancel := context.WithTimeout(ctx, l.silence)
	defer cancel()
	return l.read(ctx, after, followLimit, followBytes)
}
