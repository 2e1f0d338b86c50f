package router

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// recorded is what the router appends for a decision, as events, with later
// happenings behind it.
func recorded(t *rapid.T, d Decision, later ...eventlog.Data) []eventlog.Event {
	var events []eventlog.Event
	add := func(slug string, attempt int, data eventlog.Data) {
		b, err := eventlog.Encode(data)
		if err != nil {
			t.Fatal(err)
		}
		e := eventlog.Event{Position: int64(len(events) + 1), Type: data.EventType(), Attempt: attempt, Data: b}
		if slug != "" {
			e.Deployment = &slug
		}
		events = append(events, e)
	}
	add("", 1, d.Received)
	if d.Void != nil {
		add("", 1, *d.Void)
	}
	for _, a := range d.Forwards {
		add(a.Deployment, 1, eventlog.Forwarded{Order: eventlog.Order{Branch: a.Branch, Commit: a.Commit, Rule: a.Rule, ConfigDigest: a.ConfigDigest}})
	}
	for _, data := range later {
		add("web", 1, data)
		add("", 2, eventlog.Replayed{Deployments: []eventlog.Assignment{{Deployment: "other", Attempt: 2}}})
	}
	return events
}

// The log gives the decision back as it was; deciding again by the same
// rules comes to the same, and by other rules to what Decide says.
func TestRecordedIsWhatWasDecided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		anyRules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
			return Rule{
				Slug: rapid.SampledFrom([]string{"web", "api", "docs"}).Draw(t, "slug"), Repository: rapid.SampledFrom([]string{"o/a", "o/b"}).Draw(t, "repository"),
				Branch: rapid.SampledFrom([]string{"main", "dev"}).Draw(t, "branch"), Enabled: rapid.Bool().Draw(t, "enabled"),
				ConfigDigest: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "digest"),
			}
		}), 0, 5)
		body, err := json.Marshal(map[string]any{
			"ref":        "refs/heads/" + rapid.SampledFrom([]string{"main", "dev"}).Draw(t, "pushed"),
			"after":      "0123456789abcdef0123456789abcdef01234567",
			"repository": map[string]string{"full_name": rapid.SampledFrom([]string{"o/a", "O/A", "o/c"}).Draw(t, "of")},
		})
		if err != nil {
			t.Fatal(err)
		}
		d := delivery.Delivery{ID: "d", Event: rapid.SampledFrom([]string{"push", "push", "ping"}).Draw(t, "event"), Source: "github", Body: body}
		was := Decide(d, anyRules.Draw(t, "old"))
		got, ok, err := Recorded(recorded(t, was, eventlog.Voided{Reason: eventlog.ReasonStale}))
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if !got.Same(was.Verdict()) || !was.Verdict().Same(got) || got.String() != was.Verdict().String() {
			t.Fatalf("recorded %s\ndecided %s", got, was.Verdict())
		}
		now := Decide(d, anyRules.Draw(t, "new")).Verdict()
		same := len(now.Forwards) == len(got.Forwards) && (now.Void == nil) == (got.Void == nil)
		for i := range got.Forwards {
			same = same && now.Forwards[i].Deployment == got.Forwards[i].Deployment // branch and commit are the push's
		}
		if same && got.Void != nil {
			same = now.Void.Reason == got.Void.Reason
		}
		if got.Same(now) != same || now.Same(got) != same {
			t.Fatalf("was %s\nnow %s\nsame: %v", got, now, got.Same(now))
		}
	})
}

func TestRecorded_Nothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if _, ok, err := Recorded(recorded(t, Decision{})); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
	})
}
