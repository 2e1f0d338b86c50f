package worker

import (
	"context"
	"fmt"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"iter"
	"testing"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// events is a log in memory; of appending it knows nothing.
type events struct {
	Log
	list []eventlog.Event
	read int
}

func (l *events) Find(_ context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error] {
	return func(yield func(eventlog.Event, error) bool) {
		var found []eventlog.Event
		for _, e := range l.list {
			if f.Match(e) {
				found = append(found, e)
			}
		}
		if f.Limit > 0 && len(found) > f.Limit {
			found = found[len(found)-f.Limit:] // only the newest are ever asked for
		}
		for _, e := range found {
			l.read++
			if !yield(e, nil) {
				return
			}
		}
	}
}

// A start that reads only the newest events knows what one that reads all of them
// knows.
func TestHistory_StartsFromTheNewestEvents(t *testing.T) {
	slug := "web"
	rapid.Check(t, func(t *rapid.T) {
		log := &events{}
		add := func(delivery string, attempt int, data eventlog.Data) {
			raw, err := eventlog.Encode(data)
			if err != nil {
				t.Fatal(err)
			}
			log.list = append(log.list, eventlog.Event{
				Position: int64(len(log.list) + 1), Instance: "test", DeliveryID: delivery, Deployment: &slug,
				Type: data.EventType(), Attempt: attempt, Data: raw,
			})
		}
		for n := range rapid.IntRange(0, 15).Draw(t, "deliveries") {
			id, commit := fmt.Sprint("d", n), fmt.Sprintf("%040x", n)
			interruptions := rapid.IntRange(0, maxInterruptions).Draw(t, "interruptions")
			for attempt := range interruptions {
				add(id, attempt+1, eventlog.Started{Commit: commit})
				add(id, attempt+1, eventlog.Interrupted{})
			}
			switch rapid.SampledFrom([]string{"deployed", "failed", "failed", "open", "waiting"}).Draw(t, "end") {
			case "deployed":
				add(id, interruptions+1, eventlog.Started{Commit: commit})
				add(id, interruptions+1, eventlog.Deployed{Commit: commit})
			case "failed":
				add(id, interruptions+1, eventlog.Started{Commit: commit})
				add(id, interruptions+1, eventlog.Failed{Commit: commit})
			case "open":
				add(id, interruptions+1, eventlog.Started{Commit: commit})
			}
		}
		var all, newest history
		for _, e := range log.list {
			if err := all.apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := newest.catchUp(context.Background(), log, "test", slug); err != nil {
			t.Fatal(err)
		}
		if log.read > recent+1 {
			t.Fatalf("%d events were read of %d", log.read, len(log.list))
		}
		same := newest.position == all.position && newest.live == all.live && (newest.open == nil) == (all.open == nil)
		if all.open != nil && newest.open != nil {
			same = same && newest.open.position == all.open.position
		}
		if all.interruptions > 0 {
			same = same && newest.interrupted == all.interrupted &&
				min(newest.interruptions, maxInterruptions) == min(all.interruptions, maxInterruptions)
		}
		if !same {
			t.Fatalf("from the newest events %+v, from all %+v", newest, all)
		}
	})
}

// What is remembered may lag behind what another host has done: the log refuses what
// was decided on it, and is asked.
func TestMemory_ThatLagsBehindAnotherHostRunsNothingTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push(`touch $DIR/ran.$DURHACK_DELIVERY_ID`)
	defer s.start(func(o *Options) { o.Waits = func(mirror.Entry, int64) bool { return true } })()
	s.order("first", commit, false)
	s.drained()
	elsewhere := func(delivery string, end ...eventlog.Data) {
		order := eventlog.Transition{DeliveryID: delivery, Attempt: 1, Actor: "sam", Data: eventlog.Forwarded{
			Order: eventlog.Order{Branch: "main", Commit: commit, Rule: "r", ConfigDigest: "c"}}}
		event := s.append(order)[0]
		for _, data := range end {
			s.append(eventlog.Transition{DeliveryID: delivery, Attempt: 1, Actor: "sam", Data: data})
		}
		s.enqueue(event)
		s.drained()
	}
	elsewhere("voided", eventlog.Voided{Reason: eventlog.ReasonSuperseded})
	elsewhere("deployed", eventlog.Started{Commit: commit, Host: "there"}, eventlog.Deployed{Commit: commit})
	elsewhere("interrupted", eventlog.Started{Commit: commit, Host: "there"})
	elsewhere("last")
	s.expect("voided", "forwarded 1", "voided 1")
	s.expect("deployed", "forwarded 1", "started 1", "deployed 1")
	s.expect("interrupted", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")
	s.expect("last", "forwarded 1", "started 1", "deployed 1")
	s.checkRuns()
}
