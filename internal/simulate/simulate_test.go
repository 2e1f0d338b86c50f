package simulate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/router"
)

// memory is a log in memory, which chooses as the real one does.
type memory []eventlog.Event

func (m memory) Find(_ context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error] {
	return func(yield func(eventlog.Event, error) bool) {
		n := 0
		for _, e := range m {
			if f.Match(e) {
				if n++; f.Limit > 0 && n > f.Limit || !yield(e, nil) {
					return
				}
			}
		}
	}
}

func (m *memory) add(t *testing.T, id, slug string, data eventlog.Data) {
	t.Helper()
	b, err := eventlog.Encode(data)
	if err != nil {
		t.Fatal(err)
	}
	e := eventlog.Event{Position: int64(len(*m) + 1), Instance: "prod", DeliveryID: id, Type: data.EventType(), Attempt: 1, Data: b}
	if slug != "" {
		e.Deployment = &slug
	}
	*m = append(*m, e)
}

const commit = "0123456789abcdef0123456789abcdef01234567"

// world is a log of n pushes of which every third was to an unknown repository,
// and the bodies of all but every seventh.
func world(t *testing.T, n int) (memory, Restore) {
	t.Helper()
	var log memory
	bodies := map[string]delivery.Delivery{}
	for i := range n {
		id, repository := fmt.Sprintf("d%04d", i), "o/web"
		if i%3 == 0 {
			repository = "o/other"
		}
		body := fmt.Appendf(nil, `{"ref":"refs/heads/main","after":%q,"repository":{"full_name":%q}}`, commit, repository)
		d := delivery.Delivery{ID: id, Event: "push", Source: "github", Body: body}
		if i%7 != 0 {
			bodies[id] = d
		}
		was := router.Decide(d, []router.Rule{{Slug: "web", Repository: "o/web", Branch: "main", Enabled: true}})
		log.add(t, id, "", was.Received)
		for _, a := range was.Forwards {
			log.add(t, id, a.Deployment, eventlog.Forwarded{Order: eventlog.Order{Branch: a.Branch, Commit: a.Commit, Rule: a.Rule}})
		}
		if was.Void != nil {
			log.add(t, id, "", *was.Void)
		}
	}
	return log, func(_ context.Context, events []eventlog.Event) (delivery.Delivery, error) {
		d, ok := bodies[events[0].DeliveryID]
		if !ok {
			return d, fmt.Errorf("read the body: %w", eventlog.ErrNoPayload)
		}
		return d, nil
	}
}

// Over several pages each delivery is looked at once, in order.
func TestSimulate_DecidesEveryDeliveryOnce(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, page - 1, page, page + 1, 2*page + 7} {
		log, restore := world(t, n)
		both := []router.Rule{
			{Slug: "other", Repository: "o/other", Branch: "main", Enabled: true},
			{Slug: "web", Repository: "o/web", Branch: "main", Enabled: true, ConfigDigest: "another"},
		}
		var said []string
		changed, unknown := 0, 0
		got, err := Run(t.Context(), log, restore, eventlog.Filter{Instance: "prod"}, both, func(o Outcome) error {
			said = append(said, o.DeliveryID)
			if o.Unknown != "" {
				unknown++
				return nil
			}
			changed++
			if o.Was.Void == nil || o.Was.Void.Reason != eventlog.ReasonNoDeployment || !slices.Equal(o.Now.Deployments(), []string{"other"}) {
				t.Errorf("%s: was %s, now %s", o.DeliveryID, o.Was, o.Now)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := Result{}
		for i := range n {
			switch {
			case i%7 == 0:
				want.Unknown++
			case i%3 == 0:
				want.Changed++
				want.Decided++
			default:
				want.Decided++
			}
		}
		if got != want || changed != want.Changed || unknown != want.Unknown {
			t.Errorf("%d deliveries: %+v, want %+v", n, got, want)
		}
		if !slices.IsSorted(said) || len(slices.Compact(said)) != changed+unknown {
			t.Errorf("%d deliveries: told of %v", n, said)
		}
	}
}

func TestSimulate_OnlyTheChosenDeliveries(t *testing.T) {
	t.Parallel()
	log, restore := world(t, 20)
	var said []string
	got, err := Run(t.Context(), log, restore, eventlog.Filter{Instance: "prod", DeliveryIDs: []string{"d0002", "d0001", "d0007"}}, nil, func(o Outcome) error {
		said = append(said, o.DeliveryID)
		return nil
	})
	if want := (Result{Decided: 2, Changed: 2, Unknown: 1}); err != nil || got != want || !slices.Equal(said, []string{"d0001", "d0002", "d0007"}) {
		t.Errorf("%+v, %v: %v", got, err, said)
	}
	if got, err := Run(t.Context(), log, restore, eventlog.Filter{Instance: "other"}, nil, nil); err != nil || got != (Result{}) {
		t.Errorf("another instance: %+v, %v", got, err)
	}
}

func TestSimulate_EndsWithAnError(t *testing.T) {
	t.Parallel()
	log, restore := world(t, 20)
	full := errors.New("the disk is full")
	if _, err := Run(t.Context(), log, restore, eventlog.Filter{}, nil, func(Outcome) error { return full }); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	log[0].Data = []byte(`{"v":9}`)
	var unknown *eventlog.UnknownEventError
	if _, err := Run(t.Context(), log, restore, eventlog.Filter{}, nil, func(Outcome) error { return nil }); !errors.As(err, &unknown) {
		t.Errorf("%v", err)
	}
}
