package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Slots bound how many runs go at once, whatever their deployments. Repositories that
// wait take turns, so that a push to many deployments does not hold up those of others;
// within a turn they are served in the order in which they came. Each deployment asks for
// one run at a time, so that one that has just run is behind the others.
type Slots struct {
	mu      sync.Mutex
	free    int
	waiting []*waiter      // by turn
	turn    int            // of the one that was served last
	last    map[string]int // each repository's last turn, as long as there is a line
	tell    func(slugs []string)
}

type waiter struct {
	slug    string
	turn    int
	granted chan struct{}
}

// NewSlots returns n free slots. tell is called with the deployments that wait, in
// their order, each time that they change.
func NewSlots(n int, tell func(slugs []string)) *Slots {
	return &Slots{free: n, last: map[string]int{}, tell: tell}
}

// acquire waits for a slot, which is held until release.
func (s *Slots) acquire(ctx context.Context, slug, repository string) (release func(), err error) {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return s.release, nil
	}
	w := s.line(slug, repository)
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

// line puts one in line. It is called with the lock held.
func (s *Slots) line(slug, repository string) *waiter {
	if len(s.waiting) == 0 {
		s.turn = 0
		clear(s.last)
	}
	w := &waiter{slug, max(s.turn, s.last[repository]+1), make(chan struct{})}
	s.last[repository] = w.turn
	place := slices.IndexFunc(s.waiting, func(other *waiter) bool { return other.turn > w.turn })
	if place < 0 {
		place = len(s.waiting)
	}
	s.change(slices.Insert(s.waiting, place, w))
	return w
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
	s.turn = s.waiting[0].turn
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
