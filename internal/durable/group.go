package durable

import "sync"

// group lets concurrent callers share one sync. A sync that began after the
// caller asked covers the caller; one that had begun before may not. So at any
// moment there is at most one sync running and one gathering callers for the
// next.
type group struct {
	sync func() error

	mu   sync.Mutex
	next *batch // gathering; nil when the next caller must start one

	turn chan struct{} // has room for one: the leader of the batch that is syncing
}

func newGroup(sync func() error) *group {
	return &group{sync: sync, turn: make(chan struct{}, 1)}
}

// batch is the callers of one sync.
type batch struct {
	done chan struct{}
	err  error // set before done is closed
}

func (g *group) wait() error {
	g.mu.Lock()
	if b := g.next; b != nil {
		g.mu.Unlock()
		<-b.done
		return b.err
	}
	b := &batch{done: make(chan struct{})}
	g.next = b
	g.mu.Unlock()

	// The first caller of a batch leads it: no goroutine outlives its caller.
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	g.mu.Lock()
	g.next = nil // the sync begins: who comes now belongs to the one after
	g.mu.Unlock()
	b.err = g.sync()
	close(b.done)
	return b.err
}
