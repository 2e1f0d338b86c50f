package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// keptEvents and keptBytes bound what the feed holds of the log for all who read it.
	keptEvents = 1000
	keptBytes  = 4 << 20
	// resumed is how much of the log it begins with, for those who come back.
	resumed = 200
	// gather is how long it waits before it tells: a push is several events in a few
	// milliseconds, and a deploy that has just begun needs the processor more than those
	// who look on.
	gather = 100 * time.Millisecond
)

// Feed follows the log once for all streams. It holds the newest events; whoever is behind
// them reads the log.
type Feed struct {
	mu       sync.Mutex
	events   []feedEvent // without a gap
	bytes    int
	position int64         // of the newest event, once begun
	begun    bool          // the log is followed
	changed  chan struct{} // closed at each change
}

// feedEvent is an event with its JSON, which is made once for all.
type feedEvent struct {
	eventlog.Event
	json []byte
}

// NewFeed returns a feed; it follows nothing until Run.
func NewFeed() *Feed { return &Feed{changed: make(chan struct{})} }

// Run follows the log until ctx ends. The streams end with it.
func (f *Feed) Run(ctx context.Context, log *eventlog.Log) error {
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	newest, err := log.Read(ctx, max(0, head-resumed), resumed)
	if err != nil {
		return err
	}
	if err := f.add(newest); err != nil {
		return err
	}
	f.follow(true)
	defer f.follow(false)
	return log.Follow(ctx, f.position, func(ctx context.Context, events []eventlog.Event) error {
		if err := f.add(events); err != nil {
			return err
		}
		retry.Sleep(ctx, gather)
		f.tell()
		return nil
	})
}

// follow lets streams begin, or has them end.
func (f *Feed) follow(begun bool) {
	f.mu.Lock()
	if f.begun = begun; !begun {
		f.position, f.events, f.bytes = 0, nil, 0
	}
	f.mu.Unlock()
	f.tell()
}

func (f *Feed) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Feed) add(events []eventlog.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		raw, err := words.JSON(e)
		if err != nil {
			return fmt.Errorf("encode event %d: %w", e.Position, err)
		}
		f.events, f.position = append(f.events, feedEvent{e, raw}), e.Position
		f.bytes += len(raw)
	}
	drop := 0
	for ; len(f.events)-drop > keptEvents || f.bytes > keptBytes; drop++ {
		f.bytes -= len(f.events[drop].json)
	}
	// Into a new array: those who were handed a part of the old one are still reading it.
	f.events = append([]feedEvent(nil), f.events[drop:]...)
	return nil
}

// next is what the feed holds behind a position, and what is closed when that changes.
// begun is false where the log is not followed; held is false where some of what is
// behind the position has to be read from the log.
func (f *Feed) next(after int64) (events []feedEvent, position int64, changed <-chan struct{}, begun, held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := f.position + 1 - int64(len(f.events))
	if after+1 >= first {
		held = true
		events = f.events[min(int64(len(f.events)), after+1-first):]
	}
	return events, f.position, f.changed, f.begun, held
}
