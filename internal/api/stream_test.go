package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// positions are those from first to last.
func positions(first, last int64) (list []int64) {
	for p := first; p <= last; p++ {
		list = append(list, p)
	}
	return list
}

func same(t *testing.T, what string, got, want []int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: positions %d, want %d", what, got, want)
	}
}

// fill records pushes that were voided, two events each.
func (w *world) fill(name string, n int) {
	w.t.Helper()
	for i := range n {
		w.append(fmt.Sprintf("%s-%d", name, i), "", 1, received(i, "web"), eventlog.Voided{Reason: eventlog.ReasonNoDeployment, Detail: "none"})
	}
}

func TestStream_GoesOnBehindTheLastEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill("before", 120) // more than the feed begins with
	w.start()
	same(t, "from the start", w.stream("?after=0", "").events(240), positions(1, 240))
	same(t, "behind an event that the feed does not hold", w.stream("", "3").events(237), positions(4, 240))
	same(t, "behind an event that it holds", w.stream("", "230").events(10), positions(231, 240))
	same(t, "Last-Event-ID counts more", w.stream("?after=7", "238").events(2), positions(239, 240))
	same(t, "of a type", w.stream("?after=1&type=voided", "").events(2), []int64{2, 4})
	live, void, delivery := w.stream("", ""), w.stream("?type=voided", ""), w.stream("?delivery=after-1", "")
	past := w.stream("", "100000") // of a longer log, of which this one was restored
	w.fill("after", 2)
	same(t, "as they come", live.events(4), positions(241, 244))
	same(t, "of a type, as they come", void.events(2), []int64{242, 244})
	same(t, "of a delivery that was yet to come", delivery.events(2), []int64{243, 244})
	same(t, "past the end", past.events(4), positions(241, 244))
}

// A log that grows faster than a reader reads is read by that reader itself.
func TestStream_GoesOnWhereTheFeedHasLeftItBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	s := w.stream("", "")
	w.append("first", "", 1, received(1, "web"))
	same(t, "the first", s.events(1), []int64{1})
	before := w.stream("", "1")
	w.fill("more", 20)
	same(t, "as they come", s.events(40), positions(2, 41))
	w.feed.mu.Lock()
	w.feed.events = w.feed.events[30:] // as if they were too many
	w.feed.mu.Unlock()
	same(t, "of one who was not awake", before.events(40), positions(2, 41))
	same(t, "of one who comes back", w.stream("", "2").events(39), positions(3, 41))
}

func TestStream_EndsWithTheFeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	s := w.stream("", "")
	w.fill("some", 1)
	s.events(2)
	w.endFeed()
	if e, ok := s.event(); ok {
		t.Errorf("after the end of the feed comes event %d", e.Position)
	}
	code, body := w.do(http.MethodGet, Prefix+"events", http.Header{"Accept": {"text/event-stream"}})
	if code != http.StatusServiceUnavailable || !strings.Contains(string(body), "does not follow the log") {
		t.Errorf("without a feed the answer is %d %s", code, body)
	}
}

// A server's limits are for answers that end.
func TestStream_OutlivesTheLimitsOfTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const short = time.Second // within which a request has to come in
	w.server.Config.ReadTimeout, w.server.Config.WriteTimeout = short, short
	w.handler.beat = short / 5
	w.start()
	s := w.stream("", "")
	for range 10 {
		if m := s.message(); !strings.HasPrefix(m, ": alive\nid: 0") {
			t.Fatalf("it says %q", m)
		}
	}
	w.fill("some", 1)
	same(t, "after ten beats", s.events(2), positions(1, 2))
}

func TestStream_DropsWhoDoesNotRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handler.patience, w.handler.beat = 100*time.Millisecond, time.Millisecond
	w.handler.streams = make(chan struct{}, 1)
	text := strings.Repeat("x", 60_000)
	for i := range 200 { // more than the sockets hold
		w.append(fmt.Sprint("d", i), "", 1, received(i, "web"), eventlog.Voided{Reason: eventlog.ReasonMalformed, Detail: text})
	}
	w.start()
	w.stream("?after=0", "") // and reads no more than its beginning
	for deadline := time.Now().Add(time.Minute); ; {
		code, body := w.do(http.MethodHead, Prefix+"events", http.Header{"Accept": {"text/event-stream"}})
		if code == http.StatusOK {
			break
		}
		if code != http.StatusServiceUnavailable {
			t.Fatalf("beside a stream, of which one may be open, the answer is %d %s", code, body)
		}
		if time.Now().After(deadline) {
			t.Fatal("it is never dropped")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestStream_RefusesMoreThanItMayHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handler.streams = make(chan struct{}, 1)
	w.start()
	w.stream("", "")
	code, body := w.do(http.MethodGet, Prefix+"events", http.Header{"Accept": {"text/html, text/event-stream;q=0.9"}})
	if code != http.StatusServiceUnavailable || !strings.Contains(string(body), "too many event streams are open") {
		t.Errorf("the second is answered %d %s", code, body)
	}
	if code, body := w.get(Prefix + "events"); code != http.StatusOK {
		t.Errorf("a page is answered %d %s", code, body)
	}
}

func TestFeed_HoldsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		size, after int
	}{{"many", 1, keptEvents}, {"long", 64 << 10, keptBytes / (64 << 10)}} {
		f := NewFeed()
		data := []byte(`"` + strings.Repeat("x", test.size) + `"`)
		const n = 3 * keptEvents
		var events []eventlog.Event
		for i := range int64(n) {
			events = append(events, eventlog.Event{Position: i + 1, Data: data})
			if len(events) == 300 {
				if err := f.add(events); err != nil {
					t.Fatal(err)
				}
				events = nil
				held, position, _, _, _ := f.next(i) // the one before the last is held
				if len(held) != 1 || position != i+1 {
					t.Fatalf("%s: behind %d it holds %d events", test.name, i, len(held))
				}
			}
		}
		if len(f.events) > test.after || f.bytes > keptBytes || len(f.events) < test.after*9/10 {
			t.Errorf("%s: it holds %d events, %d bytes", test.name, len(f.events), f.bytes)
		}
		sum := 0
		for _, e := range f.events {
			raw, err := words.JSON(e.Event)
			if err != nil {
				t.Fatal(err)
			}
			sum += len(raw)
		}
		if sum != f.bytes {
			t.Errorf("%s: it counts %d bytes of %d", test.name, f.bytes, sum)
		}
		first := f.events[0].Position
		if _, _, _, _, held := f.next(first - 2); held {
			t.Errorf("%s: it says that it holds what is behind %d, and begins with %d", test.name, first-2, first)
		}
		if held, _, _, _, ok := f.next(first - 1); !ok || len(held) != len(f.events) {
			t.Errorf("%s: behind %d it holds %d of its %d", test.name, first-1, len(held), len(f.events))
		}
		if held, _, _, _, ok := f.next(n + 7); !ok || len(held) != 0 {
			t.Errorf("%s: past its end it holds %d", test.name, len(held))
		}
	}
}
