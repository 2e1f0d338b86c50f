package webhook

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// Bodies are held in memory until their signature is known, so the memory for
// them is a budget. Nearly every push is far below smallBody; the rare large one
// has a lane of its own, one at a time, so that it can neither starve the others
// nor wait for a moment when none of them is there.
const (
	smallBody  = 1 << 20
	smallTotal = 24 << 20
)

var errBusy = errors.New("no memory became free for the body in time")

type memory struct {
	small *semaphore.Weighted
	large *semaphore.Weighted
	wait  time.Duration
}

func newMemory(wait time.Duration) *memory {
	return &memory{small: semaphore.NewWeighted(smallTotal), large: semaphore.NewWeighted(1), wait: wait}
}

// lease is the right of one request to hold a body of up to limit bytes. It must
// be released once.
type lease struct {
	m     *memory
	limit int64
	give  func()
}

// reserve waits for room for a body of the length (-1 where it is not known). It
// reserves by what was promised, so that honest senders queue up instead of all
// stopping half-way; the memory itself is taken only as the body comes in.
func (m *memory) reserve(ctx context.Context, length int64) (*lease, error) {
	if length > smallBody {
		l := &lease{m: m, give: func() {}}
		if err := l.enlarge(ctx); err != nil {
			return nil, err
		}
		return l, nil
	}
	if length < 0 {
		length = smallBody
	}
	n := max(1, (length+chunkSize-1)/chunkSize) * chunkSize
	if err := m.acquire(ctx, m.small, n); err != nil {
		return nil, err
	}
	// One more, for the read that finds the end.
	return &lease{m: m, limit: n + 1, give: func() { m.small.Release(n) }}, nil
}

// grow makes the lease hold for a body of size bytes. Only a body without a
// Content-Length ever outgrows its first reservation.
func (l *lease) grow(ctx context.Context, size int64) error {
	if size <= l.limit {
		return nil
	}
	if size > delivery.MaxBody+1 {
		return errTooLarge
	}
	return l.enlarge(ctx)
}

func (l *lease) enlarge(ctx context.Context) error {
	if err := l.m.acquire(ctx, l.m.large, 1); err != nil {
		return err
	}
	l.give()
	l.limit, l.give = delivery.MaxBody+1, func() { l.m.large.Release(1) }
	return nil
}

func (l *lease) release() { l.give() }

func (m *memory) acquire(ctx context.Context, s *semaphore.Weighted, n int64) error {
	if s.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	if s.Acquire(ctx, n) != nil {
		return errBusy
	}
	return nil
}
