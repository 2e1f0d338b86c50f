package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	ordinary = 64 << 10 // the largest body of the first lane
	medium   = 1 << 20  // and of the second
)

// occupy takes all of a lane, as of bodies that nobody can cut off.
func (m *memory) occupy(lane int) (giveBack func()) {
	budget, reserve := &share{lane: lane}, &share{lane: lane, number: 1}
	for _, s := range []*share{budget, reserve} {
		if err := m.take(context.Background(), s, lanes[lane].budget); err != nil {
			panic(err)
		}
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.giveBack(budget)
		m.giveBack(reserve)
	}
}

// whole says whether nobody has any of it.
func (m *memory) whole() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, l := range m.lanes {
		if l.free != lanes[i].budget || l.first != nil || len(l.waiting) > 0 {
			return false
		}
	}
	return len(m.leases) == 0
}

func TestMemoryIsBounded(t *testing.T) {
	f := start(t, Limits{}, func(o *Options) { o.MemoryWait = 50 * time.Millisecond })
	sizes := []int{ordinary, medium, medium + 2*chunkSize}
	for full := range lanes {
		giveBack := f.h.memory.occupy(full)
		for lane, size := range sizes {
			body := make([]byte, size)
			for _, chunked := range []bool{false, true} {
				var r io.Reader = bytes.NewReader(body)
				want := 202
				// A body of unknown length passes through the lanes below its own.
				if lane == full || chunked && full < lane {
					want = 503
				}
				if chunked {
					r = io.MultiReader(r)
				}
				if got := f.send("POST", pathWebhook, push("a", body), r); got.status != want || (want == 503) != (got.json["reason"] == "busy") {
					t.Errorf("%d bytes while lane %d is full (chunked %v): %d %s", size, full, chunked, got.status, got.body)
				}
			}
		}
		giveBack()
	}
	for _, size := range sizes {
		if got := f.post(push("a", make([]byte, size)), make([]byte, size)); got.status != 202 {
			t.Errorf("%d bytes when all is free: %d %s", size, got.status, got.body)
		}
	}
	if !f.h.memory.whole() {
		t.Error("memory was not given back")
	}
}

// Strangers who stand still, after whatever they have sent, turn nobody away and
// hold nobody up: a push that had to wait until they are too slow by themselves
// would be refused here.
func TestStrangersWhoStandStill(t *testing.T) {
	f := start(t, Limits{}, func(o *Options) { o.MemoryWait = tooSlow * 4 / 5 })
	for _, c := range []struct {
		strangers, announced, sent, push int
	}{
		{60, 100, 0, 8 << 10},
		{60, ordinary, ordinary - 1, 8 << 10},
		{60, medium, 0, 8 << 10},
		{60, medium, medium - 1, 8 << 10},
		{60, medium + 1, 1, 2 * medium},
		{12, medium, medium - 1, medium},
		{60, 2 * medium, 2*medium - 1, 2 * medium},
		{20, 25 << 20, 2 * medium, 8 << 10},
		{60, -1, 0, 8 << 10},
		{1, 2 * medium, 0, 2 * medium},
		{1, 2 * medium, 2*medium - 1, 2 * medium},
		{4, 25 << 20, 24 << 20, 2 * medium},
		{200, ordinary, ordinary - 1, 8 << 10},
	} {
		t.Run(fmt.Sprintf("%d announce %d and send %d", c.strangers, c.announced, c.sent), func(t *testing.T) {
			var sending sync.WaitGroup
			var conns []net.Conn
			before := f.h.memory.bodies()
			for range c.strangers {
				conn, err := net.Dial("tcp", f.addr)
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
				length := fmt.Sprintf("Content-Length: %d", c.announced)
				if c.announced < 0 {
					length = "Transfer-Encoding: chunked"
				}
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: %s\r\n%s\r\n\r\n", pathWebhook, sign(secret, nil), length)
				sending.Go(func() { _, _ = conn.Write(make([]byte, c.sent)) }) // until it is cut off
			}
			// The push is the newest body, as of a sender that comes upon an attack.
			f.h.memory.await(t, func() bool { return f.h.memory.begun-before == int64(c.strangers) })
			body := make([]byte, c.push)
			if r := f.post(push("a", body), body); r.status != 202 {
				t.Errorf("%d %s", r.status, r.body)
			}
			for _, conn := range conns {
				conn.Close()
			}
			sending.Wait()
			f.h.memory.await(t, func() bool { return len(f.h.memory.leases) == 0 })
		})
	}
}

func (m *memory) bodies() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.begun
}

// await waits until reached, which is asked under the lock.
func (m *memory) await(t *testing.T, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		done := reached()
		m.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the bodies that are coming in are not as many as they should be")
		}
	}
}

// Bodies that come in well do not keep each other waiting, however full a lane is.
func TestBodiesThatFillALaneAllComeIn(t *testing.T) {
	m := newMemory(limit)
	const bodies, part = 64, 6 * chunkSize // all of these parts fill the lane
	var all, parts sync.WaitGroup
	parts.Add(bodies)
	for range bodies {
		all.Go(func() {
			l := m.lease(medium, time.Now().Add(limit), func(time.Time) {})
			defer l.release()
			var b body
			defer b.release()
			together := readerFunc(func([]byte) (int, error) {
				parts.Done()
				parts.Wait()
				return 0, io.EOF
			})
			r := io.MultiReader(bytes.NewReader(make([]byte, part-1)), together, bytes.NewReader(make([]byte, medium-part)))
			if err := b.readFrom(context.Background(), r, l, newSigner(nil)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if !m.whole() {
		t.Error("memory was not given back")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestMemory_NewestBodyGetsItFirst(t *testing.T) {
	m := newMemory(limit)
	giveBack := m.occupy(0)
	var all sync.WaitGroup
	leases := make([]*lease, 8)
	for i := range leases {
		leases[i] = m.lease(1, time.Now().Add(limit), func(time.Time) {})
	}
	for i, l := range leases {
		all.Go(func() {
			if err := m.take(context.Background(), l.share, lanes[0].budget); err != nil {
				t.Error(err)
			}
			l.release()
		})
		for waiting := 0; waiting <= i; time.Sleep(time.Millisecond) {
			m.mu.Lock()
			waiting = len(m.lanes[0].waiting)
			m.mu.Unlock()
		}
	}
	m.mu.Lock()
	for i, w := range m.lanes[0].waiting {
		if w.s != leases[len(leases)-1-i].share {
			t.Errorf("body %d is in place %d", w.s.number, i)
		}
	}
	m.mu.Unlock()
	giveBack()
	all.Wait()
}

func TestBody_BelowTheLeastRateIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(time.Second)
		var deadlines []time.Time
		begin := time.Now()
		l := m.lease(ordinary, begin.Add(time.Hour), func(at time.Time) { deadlines = append(deadlines, at) })
		defer l.release()
		for range 2 {
			if err := errors.Join(l.grow(context.Background(), 0), l.read()); err != nil {
				t.Fatal(err)
			}
			l.got(1)
		}
		if last := deadlines[1]; last.After(begin.Add(tooSlow + time.Second)) {
			t.Errorf("a byte bought its sender %v", last.Sub(begin))
		}
	})
}

// Memory follows what has come in, not what was promised.
func TestPromisesTakeNoMemory(t *testing.T) {
	m := newMemory(time.Second)
	l := m.lease(20<<20, time.Now().Add(limit), func(time.Time) {})
	defer l.release()
	var b body
	defer b.release()
	if err := b.readFrom(context.Background(), strings.NewReader("x"), l, newSigner(nil)); err != nil {
		t.Fatal(err)
	}
	if len(b.chunks) != 1 || l.held != chunkSize {
		t.Errorf("%d pieces and %d bytes for one byte", len(b.chunks), l.held)
	}
}
