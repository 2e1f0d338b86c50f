package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// graph is a Repository of commits that are made by number; it counts the questions.
type graph struct {
	parents []int // of each commit; -1 is none
	lost    map[int]bool
	asked   atomic.Int32
}

func commitOf(n int) string { return fmt.Sprintf("%040x", n+1) }

func (g *graph) number(commit string) int {
	for n := range g.parents {
		if commitOf(n) == commit {
			return n
		}
	}
	return -1
}

func (g *graph) led(a, b int) bool {
	for ; b >= 0; b = g.parents[b] {
		if a == b {
			return true
		}
	}
	return false
}

func (g *graph) Knows(context.Context, string) (bool, error) { g.asked.Add(1); return true, nil }

func (g *graph) FetchHistory(_ context.Context, _, commit string, _ io.Writer) error {
	g.asked.Add(1)
	if g.lost[g.number(commit)] {
		return errors.New("lost")
	}
	return nil
}

func (g *graph) IsAncestor(_ context.Context, a, b string) (bool, error) {
	g.asked.Add(1)
	return g.led(g.number(a), g.number(b)), nil
}

func (g *graph) Kin(_ context.Context, commit string, others []string) (before, after, unknown map[string]bool, _ error) {
	g.asked.Add(1)
	before, after, unknown = map[string]bool{}, map[string]bool{}, map[string]bool{}
	of := g.number(commit)
	for _, other := range others {
		switch n := g.number(other); {
		case g.lost[n]:
			unknown[other] = true
		case g.led(n, of):
			before[other] = true
		case g.led(of, n):
			after[other] = true
		}
	}
	return before, after, unknown, nil
}

func (g *graph) TipAfter(context.Context, string, string, io.Writer) (string, error) {
	g.asked.Add(1)
	return commitOf(len(g.parents) - 1), nil
}

// countedAppends counts what a worker appends.
type countedAppends struct {
	Log
	n atomic.Int32
}

func (c *countedAppends) Append(ctx context.Context, g eventlog.Group) ([]eventlog.Event, error) {
	c.n.Add(1)
	return c.Log.Append(ctx, g)
}

// However many wait, the newest goes live after the same few questions and appends.
func TestPendingLatest_IsDecidedAtOnce(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(n int) string{
		"chained": commitOf,
		"unsaid":  func(int) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			few, fewAppends := decideBacklog(t, 100, before)
			many, manyAppends := decideBacklog(t, 1000, before)
			if many > few+3 || manyAppends > fewAppends+1 {
				t.Errorf("git was asked %d times of 100 and %d times of 1000; %d and %d appends", few, many, fewAppends, manyAppends)
			}
		})
	}
}

// decideBacklog has a worker deal with n orders, and says how often git was asked, and
// how often it appended.
func decideBacklog(t *testing.T, n int, before func(n int) string) (asked, appends int32) {
	s := newSite(t)
	g := &graph{}
	var orders []eventlog.Transition
	for i := range n {
		g.parents = append(g.parents, i-1)
		order := eventlog.Order{Branch: "main", Commit: commitOf(i), Rule: "r", ConfigDigest: "c"}
		if i > 0 {
			order.Before = before(i - 1)
		}
		orders = append(orders, eventlog.Transition{DeliveryID: fmt.Sprintf("d%04d", i), Attempt: 1, Actor: "sam", Data: eventlog.Forwarded{Order: order}})
	}
	if err := os.MkdirAll(s.queueDir(), 0o750); err != nil {
		t.Fatal(err)
	}
	for _, e := range s.append(orders...) {
		entry := mirror.Entry{Position: e.Position, EventID: e.ID, DeliveryID: e.DeliveryID, Cause: e.Type, Actor: e.Actor}
		assignments, err := e.Assignments()
		if err != nil {
			t.Fatal(err)
		}
		entry.Assignment = assignments[0]
		content, err := entry.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.queueDir(), entry.Name()), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log *countedAppends
	s.run(latest, func(o *Options) {
		log = &countedAppends{Log: o.Log}
		o.Log, o.Repository, o.Handler = log, g, fixed{handlers.Plan{}}
		o.Waits = func(mirror.Entry, int64) bool { return true }
	})
	newest := fmt.Sprintf("d%04d", n-1)
	s.expect(newest, "forwarded 1", "started 1", "deployed 1")
	for _, id := range []string{"d0000", fmt.Sprintf("d%04d", n-2)} {
		s.expect(id, "forwarded 1", "voided 1")
		if v := last[eventlog.Voided](s, id); v.Reason != eventlog.ReasonSuperseded || v.SupersededBy != newest {
			t.Errorf("%s: %+v", id, v)
		}
	}
	s.checkRuns()
	return g.asked.Load(), log.n.Load()
}

// files are queue entries that are in memory.
type files []mirror.Entry

func (f files) Pending() (entries []queue.Entry) {
	for _, e := range f {
		entries = append(entries, queue.Entry{Name: e.Name()})
	}
	return entries
}

func (f files) Read(e queue.Entry) ([]byte, error) {
	return f[slices.IndexFunc(f, func(o mirror.Entry) bool { return o.Name() == e.Name })].Encode()
}

func (files) Err() error                                       { return nil }
func (files) Next(context.Context, int) ([]queue.Entry, error) { return nil, queue.ErrClosed }
func (files) Done(queue.Entry) error                           { return nil }
func (files) Rest(queue.Entry) (time.Duration, bool)           { return 0, false }
func (files) Quarantine(queue.Entry, error) error              { return nil }

// What takes whose place is what the rule says of each pair, whatever the pushes
// say and whatever git is asked of at once.
func TestPendingLatest_AgreesWithTheRuleOfEachPair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := &graph{lost: map[int]bool{}}
		for i := range rapid.IntRange(1, 8).Draw(t, "commits") {
			g.parents = append(g.parents, rapid.IntRange(-1, i-1).Draw(t, "parent"))
			g.lost[i] = rapid.IntRange(0, 9).Draw(t, "lost") == 0
		}
		said := rapid.Bool().Draw(t, "pushes say where they come from")
		var orders files
		for i := range rapid.IntRange(1, 10).Draw(t, "orders") {
			n := rapid.IntRange(0, len(g.parents)-1).Draw(t, "commit")
			order := eventlog.Order{Branch: "main", Commit: commitOf(n), Forced: rapid.IntRange(0, 9).Draw(t, "forced") == 0}
			if p := g.parents[n]; said && p >= 0 && rapid.Bool().Draw(t, "it says so") {
				order.Before = commitOf(p)
			}
			orders = append(orders, mirror.Entry{
				Position: int64(i + 1), EventID: fmt.Sprintf("01H%023d", i), DeliveryID: fmt.Sprint("d", i), Cause: eventlog.TypeForwarded,
				Assignment: eventlog.Assignment{Deployment: slug, Attempt: 1, Order: order},
			})
		}
		w := &Worker{o: Options{Deployment: Deployment{Slug: slug}, Repository: g, Queue: orders, Files: orders, Logger: quiet}}
		all := w.backlog(queue.Entry{Name: orders[0].Name()}, orders[0])
		for i, job := range orders {
			got := "nobody"
			if newer := all.newer(t.Context(), i, io.Discard); newer != nil {
				got = newer.DeliveryID
			}
			if want := g.wanted(orders, i); !want[got] {
				t.Fatalf("the place of %s is taken by %s; possible are %v", job.DeliveryID, got, slices.Sorted(maps.Keys(want)))
			}
		}
	})
}

// wanted are those that may take the place of the order at i. Where one of a pair is
// lost, but the pushes say how it lies to the other, it need not be fetched.
func (g *graph) wanted(orders files, i int) map[string]bool {
	job, want := g.number(orders[i].Commit), map[string]bool{}
	for j := len(orders) - 1; j > i; j-- {
		newer := g.number(orders[j].Commit)
		switch {
		case newer == job || orders[j].Forced, !g.led(newer, job):
			want[orders[j].DeliveryID] = true
			if newer == job || orders[j].Forced || !g.lost[newer] && !g.lost[job] {
				return want
			}
			want["nobody"] = true
			return want
		case g.lost[newer] || g.lost[job]:
			want["nobody"] = true
		}
	}
	want["nobody"] = true
	return want
}
