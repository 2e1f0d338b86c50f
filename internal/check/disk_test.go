package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/projections"
)

const (
	liveCommit  = "1111111111111111111111111111111111111111"
	otherCommit = "2222222222222222222222222222222222222222"
)

// world is read models and a working tree that may change between two looks.
type world struct {
	deployments []projections.Deployment
	attempts    []projections.Attempt
	// heads are what HEAD is at each look; the last one stays.
	heads   []string
	edited  []string
	headErr error
	looks   int
}

func (w *world) Deployments(context.Context, string, ...projections.Key) ([]projections.Deployment, error) {
	return w.deployments, nil
}

func (w *world) Attempts(_ context.Context, f projections.AttemptFilter) ([]projections.Attempt, error) {
	var list []projections.Attempt
	for _, a := range w.attempts {
		if slices.Contains(f.Outcomes, a.Outcome) && a.Deployment == f.Deployment {
			list = append(list, a)
		}
	}
	return list, nil
}

func (w *world) Head(context.Context) (string, error) {
	head := w.heads[min(w.looks, len(w.heads)-1)]
	w.looks++
	return head, w.headErr
}

func (w *world) Edited(context.Context) ([]string, error) { return w.edited, nil }

func TestProjections_Disk(t *testing.T) {
	t.Parallel()
	live := projections.Deployment{Instance: "i", Slug: "web", Live: &projections.Mark{Commit: liveCommit, DeliveryID: "d1", Position: 10}}
	running := live
	running.Running = &projections.Mark{Commit: otherCommit}
	attempt := func(outcome projections.Outcome, started int64) []projections.Attempt {
		return []projections.Attempt{{Deployment: "web", DeliveryID: "d2", Commit: otherCommit, Outcome: outcome, StartedPosition: started}}
	}
	var many []string
	for i := range 13 {
		many = append(many, fmt.Sprint("f", i))
	}
	for name, test := range map[string]struct {
		world        world
		breach, note string
	}{
		"as it should be":                     {world{deployments: []projections.Deployment{live}, heads: []string{liveCommit}}, "", ""},
		"never deployed":                      {world{deployments: []projections.Deployment{{Slug: "web"}}, heads: []string{otherCommit}, edited: many}, "", ""},
		"not in the log":                      {world{heads: []string{otherCommit}}, "", ""},
		"another commit":                      {world{deployments: []projections.Deployment{live}, heads: []string{otherCommit}}, "web: HEAD of /www is " + otherCommit + ", but " + liveCommit + " is live (delivery d1)", ""},
		"no checkout":                         {world{deployments: []projections.Deployment{live}, heads: []string{""}}, "web: /www has no checkout", ""},
		"edited":                              {world{deployments: []projections.Deployment{live}, heads: []string{liveCommit}, edited: []string{"a", "b"}}, "overwrites it: a, b", ""},
		"much edited":                         {world{deployments: []projections.Deployment{live}, heads: []string{liveCommit}, edited: many}, "f8, f9, and 3 more", ""},
		"left by a failed run":                {world{deployments: []projections.Deployment{live}, attempts: attempt(projections.OutcomeFailed, 12), heads: []string{otherCommit}}, "", "where delivery d2 left it"},
		"left by a failed run, and edited":    {world{deployments: []projections.Deployment{live}, attempts: attempt(projections.OutcomeFailed, 12), heads: []string{otherCommit}, edited: []string{"a"}}, "overwrites it: a", "where delivery d2 left it"},
		"left by an interrupted run":          {world{deployments: []projections.Deployment{live}, attempts: attempt(projections.OutcomeInterrupted, 12), heads: []string{otherCommit}}, "", "where delivery d2 left it"},
		"of a run that failed before":         {world{deployments: []projections.Deployment{live}, attempts: attempt(projections.OutcomeFailed, 8), heads: []string{otherCommit}}, "but " + liveCommit + " is live", ""},
		"of a run that never began":           {world{deployments: []projections.Deployment{live}, attempts: attempt(projections.OutcomeWaiting, 0), heads: []string{otherCommit}}, "but " + liveCommit + " is live", ""},
		"while a run is in progress":          {world{deployments: []projections.Deployment{running}, heads: []string{otherCommit}, edited: many}, "", "a run is in progress"},
		"under way at the first look":         {world{deployments: []projections.Deployment{live}, heads: []string{otherCommit, liveCommit}}, "", ""},
		"git that fails":                      {world{deployments: []projections.Deployment{live}, heads: []string{""}, headErr: errors.New("git is gone")}, "is checked out in /www: git is gone", ""},
		"another one, and another one by now": {world{deployments: []projections.Deployment{live}, heads: []string{otherCommit, strings.Repeat("3", 40)}}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := test.world
			disk, err := checkDisk(t.Context(), "i", &w, []place{{"web", "/www", &w}})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				what  string
				lines []string
				want  string
			}{{"breaches", disk.Breaches, test.breach}, {"notes", disk.Notes, test.note}} {
				if c.want == "" && len(c.lines) > 0 || c.want != "" && (len(c.lines) != 1 || !strings.Contains(c.lines[0], c.want)) {
					t.Errorf("%s are %q, want one with %q", c.what, c.lines, c.want)
				}
			}
		})
	}
}

func TestProjections_DiskEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := world{
		deployments: []projections.Deployment{{Slug: "web", Live: &projections.Mark{Commit: liveCommit}}},
		heads:       []string{otherCommit}, headErr: context.Canceled,
	}
	if _, err := checkDisk(ctx, "i", &w, []place{{"web", "", &w}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
