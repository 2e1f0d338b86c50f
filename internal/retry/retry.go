// Package retry owns how this program waits for what is away: with growing pauses,
// and a log that tells of each cause once, and at the end how long it took.
package retry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"time"
)

const (
	// first is the pause after the first failure; each is twice the one before.
	first = 20 * time.Millisecond
	// last bounds the pauses, so that work goes on soon after an outage of hours.
	last = 5 * time.Second
	// soon is how close two outages are that come and go for the same reason.
	soon = time.Minute
	// maxCauses bounds the lines of one outage: an error that is always another
	// one must not fill a disk.
	maxCauses = 20
)

// Outage is something that fails for now and is tried again. It may be used by
// several goroutines.
type Outage struct {
	log     *slog.Logger
	level   slog.Level
	message string

	mu sync.Mutex
	// err is the last failure, nil while there is no outage, which began at since.
	err   error
	since time.Time
	// over is when the last outage ended; relapse says that this one began soon
	// after, and is told of only if it lasts.
	over     time.Time
	relapse  bool
	failures int
	causes   map[string]bool // that were told in this outage
}

// New returns an Outage that is told of as a line of that level and message.
func New(log *slog.Logger, level slog.Level, message string) *Outage {
	return &Outage{log: log, level: level, message: message}
}

// numbers differ from try to try, as ports and positions do, where the cause is the same.
var numbers = regexp.MustCompile(`[0-9]+`)

// Failed notes a failure, and returns how long to wait before trying again.
func (o *Outage) Failed(err error) time.Duration {
	return o.failed(err, func(failures int) time.Duration { return Pause(failures, first, last) })
}

// FailedFor is Failed where the caller has its own pause.
func (o *Outage) FailedFor(err error, pause time.Duration) {
	o.failed(err, func(int) time.Duration { return pause })
}

func (o *Outage) failed(err error, after func(failures int) time.Duration) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if o.err == nil {
		o.since, o.causes, o.failures = now, map[string]bool{}, 0
		o.relapse = now.Sub(o.over) < soon
	}
	o.err = err
	pause := after(o.failures)
	o.failures++
	level := slog.LevelDebug
	cause := numbers.ReplaceAllString(err.Error(), "#")
	if !o.causes[cause] && len(o.causes) < maxCauses && (!o.relapse || now.Sub(o.since) >= last) {
		o.causes[cause], level = true, o.level
	}
	o.log.Log(context.Background(), level, o.message, "error", err, "retry_in", pause.Round(time.Millisecond).String())
	return pause
}

// Pause is how long to wait after so many failures before the last one: about twice as
// long each time, from first on up to last, so that not all try again at once.
func Pause(failures int, first, last time.Duration) time.Duration {
	full := min(first<<min(failures, 16), last)
	return full/2 + rand.N(full/2+1)
}

// Over notes that it works, and if there was an outage, says how long it took.
func (o *Outage) Over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return
	}
	o.err, o.over = nil, time.Now()
	if len(o.causes) == 0 {
		return // nobody was told of it
	}
	o.log.Log(context.Background(), min(o.level, slog.LevelInfo), "works again", "was", o.message, "after", o.over.Sub(o.since).Round(time.Millisecond).String())
}

// Now returns the last failure of the outage that goes on, and when it began; nil
// where there is none.
func (o *Outage) Now() (since time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.since, o.err
}

// Until calls f until it succeeds, with a pause after each failure; false where
// ctx ended first.
func (o *Outage) Until(ctx context.Context, f func() error) bool {
	for {
		err := f()
		if err == nil {
			o.Over()
			return true
		}
		if ctx.Err() != nil || !Sleep(ctx, o.Failed(err)) {
			return false
		}
	}
}

// Sleep waits for d, and returns false where ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
