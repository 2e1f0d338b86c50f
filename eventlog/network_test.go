package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// rig is a log behind a proxy, and the same log by a way that always works.
type rig struct {
	proxy     *proxy
	log, sure *Log
	n         int
	head      int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dsn := pgtest.DSN(t)
	r := &rig{sure: openLog(t, migrate(t, dsn)), proxy: newProxy(t, dsn)}
	r.log = openLog(t, r.proxy.pool(t, dsn))
	r.log.silence = 400 * time.Millisecond
	r.append(t, nil) // statements are prepared from here on
	return r
}

// append makes an append that has every kind of statement (a payload, a fence,
// identities that are looked up), under a decision about each message, and holds
// the log against what was acknowledged.
func (r *rig) append(t *testing.T, decide func(w way, typ byte) fate) {
	t.Helper()
	r.n++
	id := fmt.Sprintf("d%d", r.n)
	begun := mustAppend(t, r.sure, group(received(id), started(id, "web", 1)))
	g := group(deployed(id, "web", 1), received(id+"-next"))
	g.Payload = payload("salt", id)
	g.Fence = &Fence{Instance: "test", Deployment: "web", Position: begun[1].Position}
	if decide != nil {
		r.proxy.set(decide)
	}
	events := mustAppend(t, r.log, g)
	r.proxy.set(func(way, byte) fate { return pass })
	stored, err := r.sure.Read(testContext(t), r.head, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := append(begun, events...)
	if len(stored) != len(want) {
		t.Fatalf("the log has %d more events, acknowledged were %d", len(stored), len(want))
	}
	for i := range want {
		if !sameEvent(stored[i], want[i]) || stored[i].Position != r.head+int64(i)+1 {
			t.Fatalf("the log has %+v, acknowledged was %+v", stored[i], want[i])
		}
	}
	if _, err := r.sure.Payload(testContext(t), g.Payload.Digest); err != nil {
		t.Fatal(err)
	}
	r.head += int64(len(want))
}

// messages counts the messages of an append that nothing disturbs.
func (r *rig) messages(t *testing.T) map[way]int {
	t.Helper()
	count := map[way]int{}
	r.append(t, func(w way, _ byte) fate {
		count[w]++
		return pass
	})
	if count[toServer] < 10 || count[toClient] < 10 {
		t.Fatalf("an append has %v messages; the proxy sees too few", count)
	}
	return count
}

// Whatever becomes of any one message of an append, in either direction, the
// caller gets its events, and the log has them once.
func TestAppend_AnyMessageIsLost(t *testing.T) {
	for _, f := range []fate{cutBefore, cutAfter, delay, lose} {
		lanes := 1
		if f == lose {
			lanes = 4 // each waits for a while
		}
		for lane := range lanes {
			t.Run(fmt.Sprintf("%s, lane %d", f, lane), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				hit := map[way]int{}
				for w, n := range r.messages(t) {
					for k := lane; k < n; k += lanes {
						seen := 0
						r.append(t, func(at way, _ byte) fate {
							if at != w {
								return pass
							}
							if seen++; seen-1 != k {
								return pass
							}
							hit[w]++
							return f
						})
					}
				}
				if hit[toServer] < 10/lanes || hit[toClient] < 10/lanes {
					t.Errorf("only %v messages were %s", hit, f)
				}
			})
		}
	}
}

// Every message of an append in its turn, one after the other: the first attempt
// loses its first message, the second one its second, and so on.
func TestAppend_ThatFailsAgainAndAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, f := range []fate{cutBefore, cutAfter} {
		var attempt, seen int
		r.append(t, func(w way, typ byte) fate {
			if w != toServer {
				return pass
			}
			if typ == 0 { // another connection begins
				attempt, seen = attempt+1, 0
			}
			if seen++; seen > 3+attempt && attempt < 12 {
				return f
			}
			return pass
		})
		if attempt < 12 {
			t.Errorf("%s: the append got through after %d attempts", f, attempt)
		}
	}
}

// Eight writers append, a follower follows, all through networks in which any
// message may cut its connection: every append succeeds once, and the follower
// gets every event once and in order.
func TestFollowerWhileConnectionsDie(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	direct := openLog(t, migrate(t, dsn))
	var calm atomic.Bool
	var cuts atomic.Int64
	unreliable := func(one int) *proxy {
		p := newProxy(t, dsn)
		p.set(func(way, byte) fate {
			if calm.Load() || rand.IntN(one) != 0 {
				return pass
			}
			cuts.Add(1)
			if rand.IntN(2) == 0 {
				return cutBefore
			}
			return cutAfter
		})
		return p
	}
	writers, followers := unreliable(400), unreliable(60)
	l1, l2 := openLog(t, writers.pool(t, dsn)), openLog(t, writers.pool(t, dsn))
	follower := startFollower(t, openLog(t, followers.pool(t, dsn), WithPoll(5*time.Millisecond)))
	ld := startLoad(t, l1, l2)
	for deadline := time.Now().Add(patience); (ld.n.Load() < 300 || cuts.Load() < 60) && !t.Failed(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d groups and %d cuts", ld.n.Load(), cuts.Load())
		}
	}
	calm.Store(true)
	ld.end(t, direct, follower)
}

// A server that goes silent in the middle of a read is left for another
// connection; the follower goes on where it was.
func TestFollowerBehindASilentNetwork(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	direct := openLog(t, migrate(t, dsn))
	p := newProxy(t, dsn)
	l := openLog(t, p.pool(t, dsn), WithPoll(5*time.Millisecond))
	l.silence = 400 * time.Millisecond
	for i := range 40 {
		mustAppend(t, direct, group(received(fmt.Sprint("d", i))))
	}
	var lost atomic.Int64
	p.set(func(w way, typ byte) fate {
		if typ == 'D' && rand.IntN(30) == 0 && lost.Load() < 5 {
			lost.Add(1)
			return lose
		}
		return pass
	})
	follower := startFollower(t, l)
	for i := range 40 {
		mustAppend(t, direct, group(received(fmt.Sprint("e", i))))
	}
	follower.until(t, 80)
	// Nor does it hold up the end of the follower.
	p.set(func(w way, _ byte) fate { return lose })
	ctx, cancel := context.WithCancel(testContext(t))
	ended := make(chan error, 1)
	go func() { ended <- l.Follow(ctx, 80, func(context.Context, []Event) error { return nil }) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("follow returned %v", err)
	}
}
