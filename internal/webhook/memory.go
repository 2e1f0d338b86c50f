package webhook

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// Bodies are held in memory until their signature is known, so that memory is a
// budget. It is taken as the bytes come in, whatever was promised, and each size of
// body has a lane of its own, so that large ones do not keep small ones waiting.
//
// Anybody may begin a body, and then decides when it ends. So a request that finds a lane
// full cuts off bodies in it that stand still. One body at a time grows into a
// reserve in which the largest has room, so that bodies which all need more do not
// wait for each other. And the newest body gets memory first: its sender waits for
// the longest from now, and those who only hold memory are not the newest for long.
var lanes = [...]struct{ body, budget int64 }{
	{64 << 10, 6 << 20}, // nearly every push
	{1 << 20, 10 << 20},
	{delivery.MaxBody + 1, 6 << 20}, // one more byte, to tell that a body is too large
}

const (
	// minRate is what a sender must keep up, in bytes a second.
	minRate = 16 << 10
	// standstill is how far a body may be behind minRate while others wait for its memory.
	standstill = 300 * time.Millisecond
	// tooSlow is how far behind it may be at all.
	tooSlow = 10 * time.Second
	// evictEvery is how often those who wait look for bodies that stand still.
	evictEvery = 10 * time.Millisecond
)

var (
	errBusy = errors.New("no memory became free for the body in time")
	errSlow = errors.New("the body stood still while others waited for its memory")
)

type memory struct {
	wait time.Duration

	mu     sync.Mutex
	lanes  [len(lanes)]lane
	leases map[*lease]struct{}
	begun  int64 // how many bodies
}

type lane struct {
	free    int64   // of the budget
	first   *share  // who has the reserve
	waiting []*want // the newest body first
}

// want is a request for n bytes; granted is closed once it has them.
type want struct {
	s       *share
	n       int64
	granted chan struct{}
}

func newMemory(wait time.Duration) *memory {
	m := &memory{wait: wait, leases: make(map[*lease]struct{})}
	for i := range lanes {
		m.lanes[i].free = lanes[i].budget
	}
	return m
}

// lease is the memory of one body, and how fast it comes in. It must be released.
type lease struct {
	m *memory
	*share
	// deadline sets the time at which the read that is under way fails.
	deadline func(time.Time)
	end      time.Time // of the time for the whole body

	reading bool      // waits for the sender
	paid    time.Time // up to when what came in is enough
	cut     bool
}

// share is what a body has of a lane.
type share struct {
	lane   int
	number int64 // of the body
	held   int64 // of the budget
}

// lease begins a body of the length (-1 where it is not known), to be read by end.
func (m *memory) lease(length int64, end time.Time, deadline func(time.Time)) *lease {
	l := &lease{m: m, share: &share{lane: laneOf(length)}, end: end, deadline: deadline, paid: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun++
	l.number = m.begun
	m.leases[l] = struct{}{}
	return l
}

func laneOf(size int64) int {
	for i := range lanes {
		if size <= lanes[i].body {
			return i
		}
	}
	return len(lanes) - 1
}

// grow takes one more piece for a body of size bytes so far.
func (l *lease) grow(ctx context.Context, size int64) error {
	begin := time.Now()
	if next := laneOf(size + 1); next > l.lane {
		s := &share{lane: next, number: l.number}
		if err := l.m.take(ctx, s, size+chunkSize); err != nil {
			return err
		}
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		l.m.giveBack(l.share)
		l.share = s
	} else {
		if err := l.m.take(ctx, l.share, chunkSize); err != nil {
			return err
		}
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
	}
	l.paid = l.paid.Add(time.Since(begin)) // the sender waited, too
	return nil
}

// read notes that the sender is waited for.
func (l *lease) read() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.cut {
		return errSlow
	}
	at := l.paid.Add(tooSlow)
	if l.end.Before(at) {
		at = l.end
	}
	l.deadline(at)
	l.reading = true
	return nil
}

// got notes that the sender sent n bytes.
func (l *lease) got(n int) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.reading = false
	l.paid = l.paid.Add(time.Duration(n) * time.Second / minRate)
	if now := time.Now(); l.paid.After(now) {
		l.paid = now
	}
}

func (l *lease) release() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.leases, l)
	l.m.giveBack(l.share)
}

// take waits until a share has n bytes more.
func (m *memory) take(ctx context.Context, s *share, n int64) error {
	m.mu.Lock()
	lane := &m.lanes[s.lane]
	// The holder of the reserve never waits behind those that wait for it.
	if (len(lane.waiting) == 0 || lane.first == s) && lane.grant(s, n) {
		m.mu.Unlock()
		return nil
	}
	w := &want{s, n, make(chan struct{})}
	at, _ := slices.BinarySearchFunc(lane.waiting, s.number, func(w *want, number int64) int { return cmp.Compare(number, w.s.number) })
	lane.waiting = slices.Insert(lane.waiting, at, w)
	m.mu.Unlock()
	late := time.NewTimer(m.wait)
	defer late.Stop()
	look := time.NewTicker(evictEvery)
	defer look.Stop()
	for {
		m.evict(s.lane)
		select {
		case <-w.granted:
			return nil
		case <-look.C:
			continue
		case <-late.C:
		case <-ctx.Done():
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		select {
		case <-w.granted: // at the last moment
			return nil
		default:
		}
		lane.waiting = slices.DeleteFunc(lane.waiting, func(other *want) bool { return other == w })
		lane.serve() // the next may want less
		return errBusy
	}
}

// grant gives n bytes of the budget, or else the reserve, where it can.
func (l *lane) grant(s *share, n int64) bool {
	switch {
	case l.first == s:
	case l.free >= n:
		l.free -= n
		s.held += n
	case l.first == nil:
		l.first = s
	default:
		return false
	}
	return true
}

func (m *memory) giveBack(s *share) {
	lane := &m.lanes[s.lane]
	lane.free += s.held
	s.held = 0
	if lane.first == s {
		lane.first = nil
	}
	lane.serve()
}

// serve gives those who wait what there is; the reserve to the one who comes first,
// who then need not wait again.
func (l *lane) serve() {
	for len(l.waiting) > 0 {
		w := l.waiting[0]
		if l.first == nil {
			l.first = w.s
		} else if !l.grant(w.s, w.n) {
			return
		}
		close(w.granted)
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
}

// evict cuts off the body of a lane that stands still for the longest, one at a time:
// where the host is what stands still, its senders are not to blame.
func (m *memory) evict(lane int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var last *lease
	for l := range m.leases {
		switch {
		case l.lane != lane:
		case !l.reading:
		case l.cut: // what it has comes back in a moment
			return
		case now.Sub(l.paid) > standstill && (last == nil || l.paid.Before(last.paid)):
			last = l
		}
	}
	if last != nil {
		last.cut = true
		last.deadline(now)
	}
}
