package eventlog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// model is the log as it is specified: a list, and the rules of section 5.
type model struct {
	base   int64 // where the log stood before the check
	events []modelEvent
	at     map[string]int // identity -> index
	fence  map[string]int64
}

type modelEvent struct{ identity, content string }

func key(t Transition) string {
	return fmt.Sprintf("%q %q %s %q %d", t.Instance, t.DeliveryID, t.Data.EventType(), t.Deployment, t.Attempt)
}

func content(t Transition) string { return fmt.Sprintf("%s %+v", t.Actor, t.Data) }

// append returns the positions of the group's events, and whether it conflicts
// or is fenced; if so the model is unchanged.
func (m *model) append(g Group) (positions []int64, conflict, fenced bool) {
	next := model{base: m.base, events: m.events[:len(m.events):len(m.events)], at: maps.Clone(m.at), fence: maps.Clone(m.fence)}
	fresh := false
	for _, t := range g.Transitions {
		if i, ok := next.at[key(t)]; ok {
			if next.events[i].content != content(t) {
				return nil, true, false
			}
			positions = append(positions, next.base+int64(i)+1)
			continue
		}
		fresh = true
		next.at[key(t)] = len(next.events)
		next.events = append(next.events, modelEvent{key(t), content(t)})
		positions = append(positions, next.base+int64(len(next.events)))
		if typ := t.Data.EventType(); typ != TypeReceived && typ != TypeForwarded {
			next.fence[t.Deployment] = next.base + int64(len(next.events))
		}
	}
	// The fence is about what was there before the group.
	if fresh && g.Fence != nil && m.fence[g.Fence.Deployment] != g.Fence.Position {
		return nil, false, true
	}
	*m = next
	return positions, false, false
}

func genTransition(instance string) *rapid.Generator[Transition] {
	return rapid.Custom(func(t *rapid.T) Transition {
		tr := Transition{
			Instance:   instance,
			DeliveryID: rapid.SampledFrom([]string{"d1", "d2", "d3"}).Draw(t, "delivery"),
			Actor:      rapid.SampledFrom([]string{"ann", "ann", "ann", "bob"}).Draw(t, "actor"),
		}
		commit := rapid.SampledFrom([]string{"c1", "c1", "c1", "c2"}).Draw(t, "commit")
		if rapid.Bool().Draw(t, "whole delivery") {
			tr.Data = Received{Commit: commit}
			return tr
		}
		tr.Deployment = rapid.SampledFrom([]string{"web", "api"}).Draw(t, "deployment")
		tr.Attempt = rapid.IntRange(1, 3).Draw(t, "attempt")
		switch rapid.IntRange(0, 4).Draw(t, "type") {
		case 0:
			tr.Data = Forwarded{Order: Order{Commit: commit}}
		case 1:
			tr.Data = Started{Commit: commit}
		case 2:
			tr.Data = Failed{Commit: commit}
		case 3:
			tr.Data = Interrupted{Detail: commit}
		default:
			tr.Data = Deployed{Commit: commit}
		}
		return tr
	})
}

func (m *model) genGroup(t *rapid.T, instance string) Group {
	g := Group{Transitions: rapid.SliceOfN(genTransition(instance), 1, 4).Draw(t, "transitions")}
	if rapid.IntRange(0, 2).Draw(t, "fenced") == 0 {
		deployment := rapid.SampledFrom([]string{"web", "api"}).Draw(t, "fenced deployment")
		positions := []int64{m.fence[deployment], m.fence[deployment], m.base + int64(len(m.events)), 0}
		g.Fence = &Fence{Instance: instance, Deployment: deployment, Position: rapid.SampledFrom(positions).Draw(t, "fence")}
	}
	return g
}

func TestLogIsWhatTheModelSays(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	other := openLog(t, pool)
	checks := 0
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		checks++
		instance := fmt.Sprintf("instance-%d", checks)
		l := Open(pool, quiet)
		defer func() { l.Close() }()
		base, err := l.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m := &model{base: base, at: map[string]int{}, fence: map[string]int64{}}
		compare := func(t *rapid.T, g Group, r Result) {
			positions, conflict, fenced := m.append(g)
			var c *ConflictError
			switch {
			case conflict && !errors.As(r.Err, &c), fenced && !errors.Is(r.Err, ErrFenced):
				t.Fatalf("append returned %v; want conflict %v, fenced %v", r.Err, conflict, fenced)
			case conflict || fenced:
				if r.Events != nil {
					t.Fatalf("a refused group returned events")
				}
				return
			case r.Err != nil:
				t.Fatalf("append: %v", r.Err)
			}
			var got []int64
			for _, e := range r.Events {
				got = append(got, e.Position)
			}
			if fmt.Sprint(got) != fmt.Sprint(positions) {
				t.Fatalf("append returned positions %v, want %v", got, positions)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				g := m.genGroup(t, instance)
				events, err := l.Append(ctx, g)
				compare(t, g, Result{events, err})
			},
			"append all": func(t *rapid.T) {
				var groups []Group
				for range rapid.IntRange(0, 6).Draw(t, "groups") {
					groups = append(groups, m.genGroup(t, instance))
				}
				results, err := l.AppendAll(ctx, groups)
				if err != nil {
					t.Fatal(err)
				}
				for i, g := range groups {
					compare(t, g, results[i])
				}
			},
			"restart": func(t *rapid.T) {
				l.Close()
				l = Open(pool, quiet)
			},
			"another process": func(t *rapid.T) {
				g := m.genGroup(t, instance)
				events, err := other.Append(ctx, g)
				compare(t, g, Result{events, err})
			},
			"verify": func(t *rapid.T) {
				v, err := l.Verify(ctx, VerifyOptions{TreeOnly: true})
				if err != nil || len(v.Faults) > 0 || v.Tree.N != m.base+int64(len(m.events)) {
					t.Fatalf("verified %+v, %v; the log has %d events", v, err, m.base+int64(len(m.events)))
				}
			},
			"": func(t *rapid.T) {
				last, i := "", 0
				check := func(e *Event) error {
					if i >= len(m.events) {
						return fmt.Errorf("position %d should not be there", e.Position)
					}
					data, err := e.Decode()
					if err != nil {
						return err
					}
					tr := Transition{Instance: e.Instance, DeliveryID: e.DeliveryID, Deployment: e.DeploymentSlug(), Attempt: e.Attempt, Actor: e.Actor, Data: data}
					if key(tr) != m.events[i].identity || content(tr) != m.events[i].content {
						return fmt.Errorf("position %d is %s: %s, want %+v", e.Position, key(tr), content(tr), m.events[i])
					}
					if strings.Compare(last, e.ID) >= 0 {
						return fmt.Errorf("ID %s at position %d does not follow %s", e.ID, e.Position, last)
					}
					last, i = e.ID, i+1
					return nil
				}
				if err := l.Scan(ctx, base, func(batch []Event) error {
					for i := range batch {
						if err := check(&batch[i]); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if i != len(m.events) {
					t.Fatalf("the log has %d events, want %d", i, len(m.events))
				}
			},
		})
	})
}
