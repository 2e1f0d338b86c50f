package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

var (
	begin  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	commit = strings.Repeat("c0ffee00", 5)
)

// history is a log that is written by hand, an event a second.
type history struct {
	t      testing.TB
	events []eventlog.Event
	at     time.Time
}

func (h *history) add(delivery, slug string, attempt int, data eventlog.Data) {
	h.t.Helper()
	raw, err := eventlog.Encode(data)
	if err != nil {
		h.t.Fatal(err)
	}
	n := len(h.events) + 1
	if h.at = h.at.Add(time.Second); h.at.Before(begin) {
		h.at = begin
	}
	e := eventlog.Event{
		Position: int64(n), ID: fmt.Sprintf("%026d", n), Instance: "test", DeliveryID: delivery, Type: data.EventType(),
		Attempt: attempt, Actor: "ada", RecordedAt: h.at, Data: raw,
	}
	if slug != "" {
		e.Deployment = &slug
	}
	h.events = append(h.events, e)
}

func (h *history) received(delivery string) {
	h.add(delivery, "", 1, eventlog.Received{Event: "push", Source: eventlog.SourceGitHub, ReceivedAt: h.at})
}

func (h *history) all() iter.Seq2[eventlog.Event, error] {
	return func(yield func(eventlog.Event, error) bool) {
		for _, e := range h.events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// aLog has, in this order, a push of an unknown time that went live, one that failed, was retried and then canceled, a
// ping, a run that was interrupted and went on, and what a sender chose.
func aLog(t testing.TB) *history {
	h := &history{t: t}
	order := eventlog.Order{Branch: "main", Commit: commit}
	h.received("d1")
	h.add("d1", "web", 1, eventlog.Forwarded{Order: order})
	h.add("d1", "web", 1, eventlog.Started{Commit: commit})
	h.add("d1", "web", 1, eventlog.Deployed{Commit: commit, DurationMS: 7000})
	h.received("d2")
	h.add("d2", "", 1, eventlog.Voided{Reason: eventlog.ReasonPing})
	h.received("d3")
	h.add("d3", "web", 1, eventlog.Forwarded{Order: order})
	h.add("d3", "web", 1, eventlog.Started{Commit: commit})
	h.add("d3", "web", 1, eventlog.Failed{Commit: commit, Step: "build", DurationMS: 100})
	h.add("d3", "", 1, eventlog.Redelivered{Action: eventlog.ActionRetried, Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 2, Order: order}}})
	h.add("d3", "web", 2, eventlog.Started{Commit: commit})
	h.add("d3", "web", 2, eventlog.Canceled{Reason: "enough"})
	h.add("d3", "web", 2, eventlog.Failed{Commit: commit, Step: "build", DurationMS: 100})
	h.received("d4")
	h.add("d4", "web", 1, eventlog.Forwarded{Order: order})
	h.add("d4", "gone", 1, eventlog.Forwarded{Order: order})
	h.add("d4", "web", 1, eventlog.Started{Commit: commit})
	h.add("d4", "web", 1, eventlog.Interrupted{Then: "retry"})
	h.add("d4", "web", 2, eventlog.Started{Commit: commit})
	h.add("d4", "web", 2, eventlog.Deployed{Commit: commit, DurationMS: 40_000})
	h.add("d4", "gone", 1, eventlog.Voided{Reason: "\x1b[31m\"chosen by a sender\n"})
	return h
}

func tally(t testing.TB, h *history, since time.Time) *Tally {
	t.Helper()
	tally := NewTally("test", []string{"web"}, projections.NewState(), since)
	for e := range h.all() {
		if err := tally.Apply(&e); err != nil {
			t.Fatal(err)
		}
	}
	return tally
}

// values are all samples that are not zero, by name and labels.
func values(t testing.TB, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			v := m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				v = float64(h.GetSampleCount())*1e6 + h.GetSampleSum()
			}
			if v != 0 {
				found[f.GetName()+" "+labelsOf(m)] = v
			}
		}
	}
	return found
}

func TestTally_CountsTheLog(t *testing.T) {
	t.Parallel()
	got := values(t, tally(t, aLog(t), time.Time{}))
	want := map[string]float64{
		`durhack_deployer_received_total "source"="github",`:                               4,
		`durhack_deployer_redelivered_total "action"="retried",`:                           1,
		`durhack_deployer_voided_total "deployment"="","reason"="ping",`:                   1,
		`durhack_deployer_voided_total "deployment"="other","reason"="other",`:             1,
		`durhack_deployer_deploys_total "deployment"="web","result"="deployed",`:           2,
		`durhack_deployer_deploys_total "deployment"="web","result"="failed",`:             1,
		`durhack_deployer_deploys_total "deployment"="web","result"="canceled",`:           1,
		`durhack_deployer_interrupted_total "deployment"="web",`:                           1,
		`durhack_deployer_deploy_duration_seconds "deployment"="web","result"="deployed",`: 2e6 + 47,
		`durhack_deployer_deploy_duration_seconds "deployment"="web","result"="failed",`:   1e6 + 0.1,
		`durhack_deployer_deploy_duration_seconds "deployment"="web","result"="canceled",`: 1e6 + 0.1,
		`durhack_deployer_deploy_wait_seconds "deployment"="web",`:                         4e6 + 1 + 1 + 1 + 2,
		`durhack_deployer_deploy_lead_time_seconds "deployment"="web",`:                    1e6 + 7,
	}
	if !maps.Equal(got, want) {
		for key := range maps.All(got) {
			if got[key] != want[key] {
				t.Errorf("%s is %v, not %v", key, got[key], want[key])
			}
		}
		for key := range want {
			if _, ok := got[key]; !ok {
				t.Errorf("%s is missing", key)
			}
		}
	}
}

// What came before the process began is known, as the order of a run that starts
// later, and is not counted again.
func TestTally_CountsFromATime(t *testing.T) {
	t.Parallel()
	h := aLog(t)
	// The last seven events.
	got := values(t, tally(t, h, h.at.Add(-6*time.Second)))
	for key, want := range map[string]float64{
		`durhack_deployer_received_total "source"="github",`:                     0,
		`durhack_deployer_deploys_total "deployment"="web","result"="deployed",`: 1,
		`durhack_deployer_deploys_total "deployment"="web","result"="failed",`:   0,
		`durhack_deployer_interrupted_total "deployment"="web",`:                 1,
		`durhack_deployer_deploy_lead_time_seconds "deployment"="web",`:          1e6 + 7,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, not %v", key, got[key], want)
		}
	}
}

// rate() does not see the first event of a series that begins with it.
func TestCounters_BeginAtZero(t *testing.T) {
	t.Parallel()
	h := &history{t: t}
	for _, r := range []eventlog.Reason{eventlog.ReasonDeploymentDisabled, eventlog.ReasonSuperseded, eventlog.ReasonStale, eventlog.ReasonPinned} {
		h.add("d-web-"+string(r), "web", 1, eventlog.Voided{Reason: r})
	}
	for _, r := range eventlog.Reasons() {
		h.add("d-"+string(r), "", 1, eventlog.Voided{Reason: r})
	}
	before, after := tally(t, &history{t: t}, time.Time{}), tally(t, h, time.Time{})
	if b, a := testutil.CollectAndCount(before), testutil.CollectAndCount(after); a != b {
		t.Errorf("%d series at first, %d after each has happened", b, a)
	}
	answers := NewAnswers()
	answers.Begin(202, 401)
	answers.Count(202)
	if n := testutil.CollectAndCount(answers); n != 2 {
		t.Errorf("%d series of answers, want 2", n)
	}
}

// What another instance does counts there.
func TestTally_CountsOneInstance(t *testing.T) {
	t.Parallel()
	h := aLog(t)
	for i := range h.events {
		h.events[i].Instance = "another"
	}
	if got := values(t, tally(t, h, time.Time{})); len(got) != 0 {
		t.Errorf("counted %v", got)
	}
}

// However long the log is, the tally keeps what is open, and the number of its series
// follows from the configuration.
func TestTally_IsBounded(t *testing.T) {
	t.Parallel()
	count := func(n int) (series, deliveries int) {
		h := &history{t: t}
		for i := range n {
			id, slug := fmt.Sprintf("d%d", i), fmt.Sprintf("app-%d", i)
			h.add(id, "", 1, eventlog.Received{Event: "push", Source: eventlog.Source(id), ReceivedAt: h.at})
			h.add(id, slug, 1, eventlog.Voided{Reason: eventlog.Reason(id)})
		}
		tally := tally(t, h, time.Time{})
		return testutil.CollectAndCount(tally), len(tally.state.Deliveries(""))
	}
	few, _ := count(2)
	many, open := count(200)
	if few != many || open != 0 {
		t.Errorf("%d series for 2 senders, %d for 200, which owe nothing but %d", few, many, open)
	}
}

func TestTally_IsWellNamed(t *testing.T) {
	t.Parallel()
	look := Look(func(show Show) { show("queue_entries", "How many.", 3, "queue", "main") })
	for _, c := range []prometheus.Collector{tally(t, aLog(t), time.Time{}), NewAnswers(), look} {
		problems, err := testutil.CollectAndLint(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestHandler_AnswersWithWhatIsKnown(t *testing.T) {
	t.Parallel()
	r := Registry(prometheus.Labels{"version": "v1"})
	answers := NewAnswers()
	answers.Count(202)
	r.MustRegister(answers, Look(func(show Show) {
		show("queue_entries", "How many.", 3, "queue", "main")
		show("queue_entries", "How many.", 4, "queue", "web")
	}))
	rec := httptest.NewRecorder()
	Handler(r).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`durhack_deployer_build_info{version="v1"} 1`, `durhack_deployer_queue_entries{queue="web"} 4`,
		`durhack_deployer_webhook_answers_total{code="202"} 1`, "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
	problems, err := promlint.New(rec.Body).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func export(t testing.TB, h *history, s Span) []string {
	t.Helper()
	var b bytes.Buffer
	if err := Export(context.Background(), &b, h.all(), "test", []string{"web"}, s); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

func TestExport_GivesThePast(t *testing.T) {
	t.Parallel()
	lines := export(t, aLog(t), Span{Since: begin.Add(-time.Minute), Until: begin.Add(time.Minute), Step: 10 * time.Second, Labels: map[string]string{"job": "a\"b"}})
	var deployed []string
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, `durhack_deployer_deploys_total{deployment="web",result="deployed",job="a\"b"} `); ok {
			deployed = append(deployed, rest)
		}
	}
	at := func(s int) string {
		return fmt.Sprintf("%.1f", float64(begin.Add(time.Duration(s)*time.Second).Unix()))
	}
	// The first is live after 3 s, the second after 20 s; there is no sample before the first.
	want := []string{"1.0 " + at(10), "2.0 " + at(20), "2.0 " + at(30), "2.0 " + at(40), "2.0 " + at(50), "2.0 " + at(60)}
	for i := range deployed {
		value, stamp, _ := strings.Cut(deployed[i], " ")
		var f float64
		if _, err := fmt.Sscan(stamp, &f); err != nil {
			t.Fatal(err)
		}
		deployed[i] = fmt.Sprintf("%s %.1f", value, f)
	}
	if !slices.Equal(deployed, want) {
		t.Errorf("deployed: %q, not %q", deployed, want)
	}
	if lines[len(lines)-1] != "# EOF" {
		t.Errorf("it ends in %q", lines[len(lines)-1])
	}
	seen := map[string]bool{}
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if seen[name] {
				t.Errorf("%q comes twice", line)
			}
			seen[name] = true
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d families: %v", len(seen), seen)
	}
}

// What an export says of a moment is what a tally says that has counted up to it.
func TestExport_AgreesWithTheTally(t *testing.T) {
	t.Parallel()
	h := aLog(t)
	for n := range h.events {
		until := h.events[n].RecordedAt
		lines := export(t, h, Span{Since: until, Until: until, Step: time.Hour})
		got := 0
		for _, line := range lines {
			if strings.HasPrefix(line, "durhack_deployer_received_total{") {
				var v float64
				if _, err := fmt.Sscan(strings.Fields(line)[1], &v); err != nil {
					t.Fatal(err)
				}
				got += int(v)
			}
		}
		want := 0
		for _, e := range h.events[:n+1] {
			if e.Type == eventlog.TypeReceived {
				want++
			}
		}
		if got != want {
			t.Errorf("at event %d: %d received, not %d", n+1, got, want)
		}
	}
}

func TestExport_EndsWithTheLogsError(t *testing.T) {
	t.Parallel()
	broken := errors.New("the database went away")
	err := Export(context.Background(), io.Discard, func(yield func(eventlog.Event, error) bool) {
		yield(eventlog.Event{}, broken)
	}, "test", nil, Span{Since: begin, Until: begin.Add(time.Hour), Step: time.Minute})
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
