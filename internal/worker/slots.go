package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Slots bound how many runs go at once, whatever their deployments. Those that wait
// are served in the order in which they came; each deployment asks for one run at a
// time, so that one that has just run is behind the others.
type Slots struct {
	mu      sync.Mutex
	free    int
	waiting []*waiter
	tell    func(slugs []string)
}

type waiter struct {
	slug    string
	granted chan struct{}
}

// NewSlots returns n free slots. tell is called with the deployments that wait, in
// their order, each time that they change.
func NewSlots(n int, tell func(slugs []string)) *Slots { return &Slots{free: n, tell: tell} }

// acquire waits for a slot, which is held until release.
func (s *Slots) acquire(ctx context.Context, slug string) (release func(), err error) {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return s.release, nil
	}
	w := &waiter{slug, make(chan struct{})}
	s.change(append(s.waiting, w))
	s.mu.Unlock()
	select {
	case <-w.granted:
		return s.release, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.granted: // at the last moment
		s.next()
	default:
		s.change(slices.DeleteFunc(s.waiting, func(other *waiter) bool { return other == w }))
	}
	return nil, fmt.Errorf("wait for a free slot: %w", context.Cause(ctx))
}

func (s *Slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next()
}

// next gives a slot to the first that waits. It is called with the lock held.
func (s *Slots) next() {
	if len(s.waiting) == 0 {
		s.free++
		return
	}
	close(s.waiting[0].granted)
	s.change(slices.Delete(s.waiting, 0, 1))
}

// change is called with the lock held.
func (s *Slots) change(waiting []*waiter) {
	s.waiting = waiting
	slugs := make([]string, len(waiting))
	for i, w := range waiting {
		slugs[i] = w.slug
	}
	s.tell(slugs)
}
