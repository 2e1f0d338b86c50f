package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Slots bound how many runs go at once, whatever their deployments. Repositories that
// wait take turns, and of two slots or more the last is kept for one of which nothing
// runs, so that a push to many deployments does not hold up those of others; within a
// turn they are served in the order in which they came. Each deployment asks for one run
// at a time, so that one that has just run is behind the others.
type Slots struct {
	mu      sync.Mutex
	all     int
	free    int
	running map[string]int // by repository
	waiting []*waiter      // by turn
	turn    int            // of the one that was served last
	last    map[string]int // each repository's last turn, as long as there is a line
	tell    func(slugs []string)
}

type waiter struct {
	slug, repository string
	turn             int
	granted          chan struct{}
}

// NewSlots returns n free slots. tell is called with the deployments that wait, in
// their order, each time that they change.
func NewSlots(n int, tell func(slugs []string)) *Slots {
	return &Slots{all: n, free: n, running: map[string]int{}, last: map[string]int{}, tell: tell}
}

// acquire waits for a slot, which is held until release.
func (s *Slots) acquire(ctx context.Context, slug, repository string) (release func(), err error) {
	release = func() { s.release(repository) }
	s.mu.Lock()
	if s.take(repository) {
		s.mu.Unlock()
		return release, nil
	}
	w := s.line(slug, repository)
	s.mu.Unlock()
	select {
	case <-w.granted:
		return release, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	select {
	case <-w.granted: // at the last moment
		s.mu.Unlock()
		release()
	default:
		s.change(slices.DeleteFunc(s.waiting, func(other *waiter) bool { return other == w }))
		s.mu.Unlock()
	}
	return nil, fmt.Errorf("wait for a free slot: %w", context.Cause(ctx))
}

// take takes a slot, if there is one for the repository. It is called with the lock held.
func (s *Slots) take(repository string) bool {
	if s.free == 0 || s.free == 1 && s.all > 1 && s.running[repository] > 0 {
		return false
	}
	s.free--
	s.running[repository]++
	return true
}

// line puts one in line. It is called with the lock held.
func (s *Slots) line(slug, repository string) *waiter {
	if len(s.waiting) == 0 {
		s.turn = 0
		clear(s.last)
	}
	w := &waiter{slug, repository, max(s.turn, s.last[repository]+1), make(chan struct{})}
	s.last[repository] = w.turn
	place := slices.IndexFunc(s.waiting, func(other *waiter) bool { return other.turn > w.turn })
	if place < 0 {
		place = len(s.waiting)
	}
	s.change(slices.Insert(s.waiting, place, w))
	return w
}

// release gives the slot back, and each that is free to the first in line who may have it.
func (s *Slots) release(repository string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if s.running[repository]--; s.running[repository] == 0 {
		delete(s.running, repository)
	}
	for {
		i := slices.IndexFunc(s.waiting, func(w *waiter) bool { return s.take(w.repository) })
		if i < 0 {
			return
		}
		s.turn = max(s.turn, s.waiting[i].turn)
		close(s.waiting[i].granted)
		s.change(slices.Delete(s.waiting, i, i+1))
	}
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
