package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// events are those of the delivery, or all.
func (s *site) events(delivery string) []eventlog.Event {
	s.t.Helper()
	var events []eventlog.Event
	for e, err := range s.log.Find(context.Background(), eventlog.Filter{Instance: instance, DeliveryID: delivery}) {
		if err != nil {
			s.t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// story is a delivery's events in short: "started 1".
func (s *site) story(delivery string) []string {
	s.t.Helper()
	var lines []string
	for _, e := range s.events(delivery) {
		line := fmt.Sprintf("%s %d", e.Type, e.Attempt)
		if delivery == "" {
			line = e.DeliveryID + " " + line
		}
		lines = append(lines, line)
	}
	return lines
}

// fold is what the read models say.
func (s *site) fold() *projections.State {
	s.t.Helper()
	state, err := projections.FoldAt(s.log.Find(context.Background(), eventlog.Filter{}))
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

func (s *site) expect(delivery string, want ...string) {
	s.t.Helper()
	if got := s.story(delivery); !slices.Equal(got, want) {
		s.t.Errorf("%s: the log says %q, want %q\n%s", delivery, got, want, s.data(delivery))
	}
}

func (s *site) data(delivery string) string {
	var b strings.Builder
	for _, e := range s.events(delivery) {
		fmt.Fprintf(&b, "  %s %s\n", e.Type, e.Data)
	}
	return b.String()
}

// last is the data of the delivery's newest event, which must be a T.
func last[T eventlog.Data](s *site, delivery string) T {
	s.t.Helper()
	events := s.events(delivery)
	data, err := events[len(events)-1].Decode()
	if err != nil {
		s.t.Fatal(err)
	}
	out, ok := data.(T)
	if !ok {
		s.t.Fatalf("%s ends with %T, want %T\n%s", delivery, data, out, s.data(delivery))
	}
	return out
}

// checkRuns looks for what must be true of every log: runs do not overlap, and
// each has one end.
func (s *site) checkRuns() {
	s.t.Helper()
	open := ""
	for _, e := range s.events("") {
		run := fmt.Sprintf("%s %d", e.DeliveryID, e.Attempt)
		switch e.Type {
		case eventlog.TypeStarted:
			if open != "" {
				s.t.Errorf("%s started while %s was running", run, open)
			}
			open = run
		case eventlog.TypeDeployed, eventlog.TypeInterrupted:
			if open != run {
				s.t.Errorf("%s %s while %q was running", run, e.Type, open)
			}
			open = ""
		case eventlog.TypeFailed: // may follow an interruption, in the same group
			if open != run && open != "" {
				s.t.Errorf("%s failed while %q was running", run, open)
			}
			open = ""
		}
	}
	if open != "" {
		s.t.Errorf("%s is still running", open)
	}
	if s.t.Failed() {
		s.t.Logf("the log:\n%s", strings.Join(s.story(""), "\n"))
	}
}

// expectOneEnd: one end, of the given type, and it is that of the last start.
func (s *site) expectOneEnd(delivery string, want eventlog.Type) {
	s.t.Helper()
	started, interrupted, ends := 0, 0, 0
	for _, e := range s.events(delivery) {
		switch e.Type {
		case eventlog.TypeStarted:
			started++
		case eventlog.TypeInterrupted:
			interrupted++
		case eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeVoided:
			ends++
			if e.Type != want || e.Attempt != started {
				s.t.Errorf("%s ended with %s of attempt %d after %d starts", delivery, e.Type, e.Attempt, started)
			}
		}
	}
	if ends != 1 || interrupted != started-1 || started > 2 {
		s.t.Errorf("%s: %d ends, %d starts, %d interruptions", delivery, ends, started, interrupted)
	}
}
