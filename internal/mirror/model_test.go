package mirror

import (
	"context"
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// model is what the queues should hold, in order, by deployment.
type model struct {
	s       *site
	open    map[string][]string
	attempt map[string]int // highest, by delivery
	next    int
}

func modelOf(_ *rapid.T, s *site) *model {
	return &model{s: s, open: map[string][]string{}, attempt: map[string]int{}}
}

func (s *site) head(t rapid.TB) int64 {
	t.Helper()
	head, err := s.log.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// order appends an assignment: a new delivery, or an old one again.
func (m *model) order(t *rapid.T) {
	slugs := rapid.SampledFrom([][]string{{"web"}, {"docs"}, {"docs", "web"}}).Draw(t, "slugs")
	if m.next > 0 && rapid.Bool().Draw(t, "again") {
		id := fmt.Sprint("d-", rapid.IntRange(0, m.next-1).Draw(t, "delivery"))
		m.attempt[id]++
		if rapid.Bool().Draw(t, "replay") {
			m.s.append(t, replayed(id, m.attempt[id], slugs...))
		} else {
			m.s.append(t, redelivered(id, m.attempt[id], m.attempt[id], slugs...))
		}
		m.add(id, slugs)
		return
	}
	id := fmt.Sprint("d-", m.next)
	m.next++
	m.attempt[id] = 1
	for _, slug := range slugs {
		m.s.append(t, forwarded(id, slug, 1))
	}
	m.add(id, slugs)
}

func (m *model) add(id string, slugs []string) {
	for _, slug := range slugs {
		m.open[slug] = append(m.open[slug], fmt.Sprintf("%s %s %d", slug, id, m.attempt[id]))
	}
}

// work ends the first run of a deployment: the event, and the file.
func (m *model) work(t *rapid.T) {
	slug := rapid.SampledFrom([]string{"web", "docs"}).Draw(t, "worker")
	if len(m.open[slug]) == 0 {
		return
	}
	m.s.work(t, slug)
	m.open[slug] = m.open[slug][1:]
}

// interrupt ends the first run of a deployment after an interruption, so by an
// attempt that is newer than any order of its delivery.
func (m *model) interrupt(t *rapid.T) {
	slug := rapid.SampledFrom([]string{"web", "docs"}).Draw(t, "interrupted")
	if len(m.open[slug]) == 0 {
		return
	}
	var id string
	var attempt int
	if _, err := fmt.Sscanf(m.open[slug][0], slug+" %s %d", &id, &attempt); err != nil {
		t.Fatal(err)
	}
	m.attempt[id]++
	at := func(attempt int, data eventlog.Data) eventlog.Transition {
		return eventlog.Transition{DeliveryID: id, Deployment: slug, Attempt: attempt, Data: data}
	}
	q, entry := m.s.first(t, slug)
	m.s.append(t, at(attempt, eventlog.Started{Commit: sha}), at(attempt, eventlog.Interrupted{Then: "retry"}))
	m.s.append(t, at(m.attempt[id], eventlog.Started{Commit: sha}), deployed(id, slug, m.attempt[id]))
	if err := q.Remove(entry); err != nil {
		t.Fatal(err)
	}
	m.open[slug] = m.open[slug][1:]
}

// endWithout ends the first run of a deployment in the log alone: the file, if
// there is one, is of no use any more.
func (m *model) endWithout(t *rapid.T) {
	slug := rapid.SampledFrom([]string{"web", "docs"}).Draw(t, "ended")
	if len(m.open[slug]) == 0 || !slices.Contains(m.s.files(t), m.open[slug][0]) {
		return
	}
	m.s.work(t, slug)
	m.open[slug] = m.open[slug][1:]
}

func (m *model) check(t *rapid.T) {
	t.Helper()
	var want []string
	for _, slug := range []string{"docs", "web"} {
		want = append(want, m.open[slug]...)
	}
	m.s.expectFiles(t, want...)
	expected, err := m.s.mirror().Expected(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, slug := range []string{"docs", "web"} {
		for _, e := range expected[slug] {
			got = append(got, fmt.Sprintf("%s %s %d", e.Deployment, e.DeliveryID, e.Attempt))
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Expected: %q, want %q", got, want)
	}
}
