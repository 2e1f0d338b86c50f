package figures

import (
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }

// history writes a log: each line is an event, so many minutes after the beginning.
// Make is the report of a whole log.
func Make(state *projections.State, instance string, p Period, slugs []string, only string) []Line {
	m := New(p, slugs, only)
	m.Add(state, instance, 0, state.Position())
	return m.Lines()
}

type history struct {
	t     *testing.T
	state *projections.State
	n     int64
	all   []eventlog.Event
}

func newHistory(t *testing.T) *history { return &history{t: t, state: projections.NewState()} }

func (h *history) add(minute int, delivery, slug string, attempt int, data eventlog.Data) {
	h.t.Helper()
	h.n++
	b, err := eventlog.Encode(data)
	if err != nil {
		h.t.Fatal(err)
	}
	e := eventlog.Event{
		Position: h.n, Instance: "prod", DeliveryID: delivery, Type: data.EventType(), Attempt: attempt, Actor: "octocat",
		RecordedAt: at(minute), Data: b,
	}
	if slug != "" {
		e.Deployment = &slug
	}
	h.all = append(h.all, e)
	if err := h.state.Apply(&e); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) push(minute int, delivery string, source eventlog.Source) {
	h.add(minute, delivery, "", 1, eventlog.Received{Event: "push", Source: source, ReceivedAt: at(minute)})
}

func (h *history) run(delivery, slug string, attempt, started, ended int, ok bool) {
	h.add(started, delivery, slug, attempt, eventlog.Started{Commit: "c"})
	if ok {
		h.add(ended, delivery, slug, attempt, eventlog.Deployed{Commit: "c"})
	} else {
		h.add(ended, delivery, slug, attempt, eventlog.Failed{Commit: "c", Step: "test"})
	}
}

// want is a line in whole minutes; -1 is "nothing to measure".
type want struct {
	deployment                 string
	deploys, failures, voided  int
	lead, leadP90, wait, waitP int
	longest                    int
	of                         string
}

func check(t *testing.T, lines []Line, wants ...want) {
	t.Helper()
	minutes := func(d time.Duration, ok bool) int {
		if !ok {
			return -1
		}
		return int(d / time.Minute)
	}
	var got []want
	for _, l := range lines {
		w := want{
			l.Deployment, l.Deploys, l.Failures, l.Voided, minutes(l.LeadTime.Median()), minutes(l.LeadTime.P90()),
			minutes(l.Wait.Median()), minutes(l.Wait.P90()), -1, "",
		}
		if l.Longest != nil {
			w.longest, w.of = minutes(l.Longest.EndedAt.Sub(l.Longest.StartedAt), true), l.Longest.DeliveryID
		}
		got = append(got, w)
	}
	if !slices.Equal(got, wants) {
		t.Errorf("got  %+v\nwant %+v", got, wants)
	}
}

// everyKind is a history of pushes that went live, failed, were interrupted, replayed,
// voided, deployed by hand, and that wait.
func everyKind(t *testing.T) *history {
	h := newHistory(t)
	// A push to two deployments: live at web after 10 minutes, failed at api.
	h.push(0, "d1", eventlog.SourceGitHub)
	h.add(1, "d1", "api", 1, eventlog.Forwarded{})
	h.add(1, "d1", "web", 1, eventlog.Forwarded{})
	h.run("d1", "web", 1, 3, 10, true)
	h.run("d1", "api", 1, 2, 4, false)
	// Interrupted and tried again: one deploy, one wait; 30 minutes after the push.
	h.push(20, "d2", eventlog.SourceGitHub)
	h.add(20, "d2", "web", 1, eventlog.Forwarded{})
	h.add(21, "d2", "web", 1, eventlog.Started{Commit: "c"})
	h.add(25, "d2", "web", 1, eventlog.Interrupted{Then: "retry"})
	h.run("d2", "web", 2, 40, 50, true)
	// Replayed where it failed: live there 100 minutes after the push; and where
	// it was live: that is a deploy, but no second arrival.
	h.add(90, "d1", "", 2, eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: "api", Attempt: 2}, {Deployment: "web", Attempt: 2}}})
	h.run("d1", "api", 2, 95, 100, true)
	h.run("d1", "web", 2, 96, 101, true)
	// By hand: a deploy without a push.
	h.push(110, "d3", eventlog.SourceCLI)
	h.add(110, "d3", "web", 1, eventlog.Forwarded{})
	h.run("d3", "web", 1, 110, 130, true)
	// Stale, and still waiting.
	h.push(140, "d4", eventlog.SourceGitHub)
	h.add(140, "d4", "web", 1, eventlog.Forwarded{})
	h.add(141, "d4", "web", 1, eventlog.Voided{Reason: eventlog.ReasonStale})
	h.push(150, "d5", eventlog.SourceGitHub)
	h.add(150, "d5", "web", 1, eventlog.Forwarded{})
	return h
}

func TestFigures(t *testing.T) {
	t.Parallel()
	h := everyKind(t)
	check(t, Make(h.state, "prod", Period{}, []string{"api", "off", "web"}, ""),
		want{"api", 1, 1, 0, 100, 100, 1, 5, 5, "d1"},
		want{"off", 0, 0, 0, -1, -1, -1, -1, -1, ""},
		want{"web", 4, 0, 1, 10, 30, 1, 6, 20, "d3"},
		want{"", 5, 1, 1, 30, 100, 1, 6, 20, "d3"},
	)
	// From the end of the first run, which is not within, to the end of the retry, which is.
	check(t, Make(h.state, "prod", Period{at(10).Add(1), at(50).Add(1)}, nil, ""),
		want{"web", 1, 0, 0, 30, 30, 1, 1, 10, "d2"},
		want{"", 1, 0, 0, 30, 30, 1, 1, 10, "d2"},
	)
	check(t, Make(h.state, "prod", Period{at(10), at(50)}, nil, "web"),
		want{"web", 1, 0, 0, 10, 10, 1, 1, 7, "d1"},
		want{"", 1, 0, 0, 10, 10, 1, 1, 7, "d1"},
	)
	check(t, Make(h.state, "other", Period{}, nil, ""), want{"", 0, 0, 0, -1, -1, -1, -1, -1, ""})
	if _, ok := Make(h.state, "other", Period{}, nil, "")[0].FailureRate(); ok {
		t.Error("a rate of nothing")
	}
	if rate, ok := Make(h.state, "prod", Period{}, nil, "api")[0].FailureRate(); !ok || rate != 0.5 {
		t.Errorf("failure rate %v, %v", rate, ok)
	}
}

// A report that is made part by part is the same, wherever the parts end.
func TestMaker_PartsAddUp(t *testing.T) {
	t.Parallel()
	h := everyKind(t)
	for _, p := range []Period{{}, {at(10), at(100)}} {
		whole := fmt.Sprintf("%+v", Make(h.state, "prod", p, nil, ""))
		for size := 1; size < len(h.all); size++ {
			m := New(p, nil, "")
			for after := 0; after < len(h.all); after += size {
				through := min(after+size, len(h.all))
				state := projections.NewState()
				for i := range h.all[:through] {
					if err := state.Apply(&h.all[i]); err != nil {
						t.Fatal(err)
					}
				}
				m.Add(state, "prod", int64(after), int64(through))
			}
			if parts := fmt.Sprintf("%+v", m.Lines()); longest.ReplaceAllString(parts, "") != longest.ReplaceAllString(whole, "") {
				t.Errorf("in parts of %d:\n%s\nat once:\n%s", size, parts, whole)
			}
		}
	}
}

// longest is a pointer in the output.
var longest = regexp.MustCompile(`Longest:0x[0-9a-f]+`)

// The listener's clock may be ahead of the database's.
func TestClocksThatDisagreeGiveNoNegativeTime(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.add(0, "d1", "", 1, eventlog.Received{Event: "push", Source: eventlog.SourceGitHub, ReceivedAt: at(60)})
	h.add(0, "d1", "web", 1, eventlog.Forwarded{})
	h.run("d1", "web", 1, 1, 2, true)
	check(t, Make(h.state, "prod", Period{}, nil, "web"), want{"web", 1, 0, 0, 0, 0, 1, 1, 1, "d1"}, want{"", 1, 0, 0, 0, 0, 1, 1, 1, "d1"})
}

// A quantile by its definition: the least of the values that at least so many
// percent of them do not exceed.
func TestQuantileIsTheNearestRank(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, 20), 1, 40).Draw(t, "values")
		percent := rapid.IntRange(1, 100).Draw(t, "percent")
		var s Spread
		for _, v := range values {
			s.add(time.Duration(v))
		}
		slices.Sort(s.sorted)
		got, ok := s.Quantile(percent)
		notAbove := func(limit int64) int {
			n := 0
			for _, v := range values {
				if v <= limit {
					n++
				}
			}
			return n
		}
		if !ok || !slices.Contains(values, int64(got)) || notAbove(int64(got))*100 < percent*len(values) || notAbove(int64(got)-1)*100 >= percent*len(values) {
			t.Fatalf("quantile %d of %v is %d", percent, s.sorted, got)
		}
	})
}
