package worker

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// threeCommits pushes three commits and puts the last live.
func (s *site) threeCommits() (c1, c2, c3 string) {
	s.t.Helper()
	c1, c2, c3 = s.push("echo 1 > $DIR/ran"), s.push("echo 2 > $DIR/ran"), s.push("echo 3 > $DIR/ran")
	s.order("live", c3, false)
	s.run()
	s.expect("live", "forwarded 1", "started 1", "deployed 1")
	return c1, c2, c3
}

func (s *site) moveMain(to string) {
	s.t.Helper()
	s.git(s.remote(), "update-ref", "refs/heads/main", to)
}

// Never backwards by accident.
func TestStale(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c1, c2, c3 := s.threeCommits()

	s.order("late", c2, false)
	s.run()
	s.expect("late", "forwarded 1", "voided 1")
	if v := last[eventlog.Voided](s, "late"); v.Reason != eventlog.ReasonStale || v.Commit != c2 || !strings.Contains(v.Detail, words.ShortCommit(c3)) || !strings.Contains(v.Detail, "--ref "+c2) {
		t.Errorf("voided: %+v", v)
	}

	s.order("again", c3, false) // what is live may be put live again
	s.order("forced", c1, true)
	s.run()
	s.expect("again", "forwarded 1", "started 1", "deployed 1")
	s.expect("forced", "forwarded 1", "started 1", "deployed 1")
	s.order("forward", c3, false)
	s.run()
	s.expect("forward", "forwarded 1", "started 1", "deployed 1")

	s.moveMain(c2)
	s.order("back", c2, false)
	s.run()
	s.expect("back", "forwarded 1", "started 1", "deployed 1")
	if d := last[eventlog.Deployed](s, "back"); d.PreviousCommit != c3 || s.read("ran") != "2\n" {
		t.Errorf("deployed: %+v, ran %q", d, s.read("ran"))
	}

	s.git(s.remote(), "update-ref", "-d", "refs/heads/main")
	s.order("gone", c1, false)
	s.run()
	s.expect("gone", "forwarded 1", "voided 1")
	if v := last[eventlog.Voided](s, "gone"); v.Reason != eventlog.ReasonStale || !strings.Contains(v.Detail, "is gone") {
		t.Errorf("voided: %+v", v)
	}

	if err := os.Rename(s.remote(), s.remote()+".away"); err != nil {
		t.Fatal(err)
	}
	s.order("blind", c1, false)
	s.run()
	s.expect("blind", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "blind"); f.Step != stepPlan || !strings.Contains(f.Error, "behind what is live") {
		t.Errorf("failed: %+v", f)
	}
	if s.read("ran") != "2\n" || s.read("live/build") != "#!/bin/sh\necho 2 > $DIR/ran\n" {
		t.Errorf("what is live has changed: %q", s.read("live/build"))
	}
}

// mute is a clone that cannot say how commits lie to one another.
type mute struct{ Repository }

func (mute) IsAncestor(context.Context, string, string) (bool, error) {
	return false, errors.New("no answer")
}

// A push on top of what is live needs no comparing; one on top of something else does.
func TestStaleIsNotAskedOfAPushOntoWhatIsLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, _, c3 := s.threeCommits()
	c4, c5 := s.push("echo 4"), s.push("echo 5")
	for _, o := range []struct{ delivery, before, commit string }{{"onto", c3, c4}, {"elsewhere", c3, c5}, {"unsaid", "", c5}} {
		s.enqueue(s.append(eventlog.Transition{DeliveryID: o.delivery, Attempt: 1, Actor: "sam", Data: eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: o.commit, Before: o.before, Rule: "r", ConfigDigest: "c"}}})[0])
	}
	s.moveMain(c3) // so that none is the tip
	s.run(func(o *Options) { o.Repository = mute{o.Repository} })
	s.expect("onto", "forwarded 1", "started 1", "deployed 1")
	for _, id := range []string{"elsewhere", "unsaid"} {
		s.expect(id, "forwarded 1", "started 1", "failed 1")
		if f := last[eventlog.Failed](s, id); f.Step != stepPlan || !strings.Contains(f.Error, "no answer") {
			t.Errorf("%s failed: %+v", id, f)
		}
	}
}

// The clone was made again since, and does not know what is live any more; nor
// does the remote.
func TestStaleWhereWhatIsLiveIsUnknown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c1, c2, _ := s.threeCommits()
	s.moveMain(c2)
	s.git(s.remote(), "gc", "--quiet", "--prune=now")
	if err := os.RemoveAll(s.live()); err != nil {
		t.Fatal(err)
	}
	s.git(s.Dir, "clone", "--quiet", s.remote(), s.live())
	s.order("unclear", c1, false)
	s.order("tip", c2, false)
	s.run()
	s.expect("unclear", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "unclear"); f.Step != stepPlan || !strings.Contains(f.Error, "tell whether") {
		t.Errorf("failed: %+v", f)
	}
	s.expect("tip", "forwarded 1", "started 1", "deployed 1")
}

// The log says what is live, whatever has become of the clone.
func TestStaleWithoutTheHistory(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(s *site){
		"shallow": func(s *site) {
			s.git(s.Dir, "clone", "--quiet", "--depth=1", "file://"+s.remote(), s.live())
		},
		"another branch": func(s *site) {
			s.git(s.pusher(), "push", "--quiet", s.remote(), "HEAD~2:refs/heads/old")
			s.git(s.Dir, "clone", "--quiet", "--single-branch", "--branch=old", s.remote(), s.live())
		},
		"gone":  func(*site) {},
		"empty": func(s *site) { s.git(s.Dir, "init", "--quiet", s.live()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			_, c2, c3 := s.threeCommits()
			if err := os.RemoveAll(s.live()); err != nil {
				t.Fatal(err)
			}
			lose(s)
			s.order("late", c2, false)
			s.run()
			s.expect("late", "forwarded 1", "voided 1")
			c4 := s.push("echo 4 > $DIR/ran")
			s.order("newer", c4, false)
			s.run()
			s.expect("newer", "forwarded 1", "started 1", "deployed 1")
			if d := last[eventlog.Deployed](s, "newer"); d.PreviousCommit != c3 || s.read("ran") != "4\n" {
				t.Errorf("deployed: %+v, ran %q", d, s.read("ran"))
			}
		})
	}
}

// Where the history cannot be had, nothing goes live on a guess.
func TestStaleWhereTheHistoryCannotBeHad(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, c2, _ := s.threeCommits()
	if err := errors.Join(os.RemoveAll(s.live()), os.Rename(s.remote(), s.remote()+".away")); err != nil {
		t.Fatal(err)
	}
	s.order("blind", c2, false)
	s.run()
	s.expect("blind", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "blind"); f.Step != stepPlan || !strings.Contains(f.Error, "tell whether commit") || !strings.Contains(f.Error, "--ref "+c2) {
		t.Errorf("failed: %+v", f)
	}
}

// A branch that was moved back may be seen to have moved only a moment later.
func TestStaleWaitsForALateRemote(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c1, c2, c3 := s.threeCommits()
	s.enqueue(s.append(eventlog.Transition{DeliveryID: "back", Attempt: 1, Actor: "sam", Data: eventlog.Forwarded{
		Order: eventlog.Order{Branch: "main", Commit: c2, ForcedFrom: c1, Rule: "r", ConfigDigest: "c"},
	}})[0])
	s.moveMain(c1) // as it was before
	said := false
	s.run(func(o *Options) {
		o.Repository = late{clone{git.Open(s.live(), s.remote(), git.Options{})}, func() {
			said = true
			s.moveMain(c2)
		}}
	})
	s.expect("back", "forwarded 1", "started 1", "deployed 1")
	if log := s.read("runs/web/back-1.log"); !said || !strings.Contains(log, "where it was before the push; asking again in") {
		t.Errorf("waited: %v; live was %s; the run log:\n%s", said, c3, log)
	}
}

// late is a clone that waits for its remote, which moves when it does.
type late struct {
	clone
	move func()
}

func (l late) TipAfter(ctx context.Context, branch, before string, out io.Writer) (string, error) {
	return l.Patient(time.Minute, func(why string) {
		_, _ = io.WriteString(out, why+"\n")
		l.move()
	}).TipAfter(ctx, branch, before)
}

// A remote that never answers is a matter of the deployment's timeout, too.
func TestTimeoutOfTheCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, c2, _ := s.threeCommits()
	s.order("late", c2, false)
	s.run(func(o *Options) {
		o.Deployment.Timeout = 50 * time.Millisecond
		o.Repository = silent{o.Repository}
	})
	s.expect("late", "forwarded 1", "started 1", "failed 1")
	if f := last[eventlog.Failed](s, "late"); f.Step != stepPlan || !strings.Contains(f.Error, "longer than its timeout allows") {
		t.Errorf("failed: %+v", f)
	}
}

// silent is a clone whose remote does not answer.
type silent struct{ Repository }

func (silent) TipAfter(ctx context.Context, _, _ string, _ io.Writer) (string, error) {
	<-ctx.Done()
	return "", context.Cause(ctx)
}

func latest(o *Options) { o.Deployment.LatestOnly = true }

func TestPendingLatest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c1, c2, c3 := s.push("echo 1"), s.push("echo 2"), s.push("echo 3")
	// Out of order, and there is no clone yet.
	s.order("a3", c3, false)
	s.order("a1", c1, false)
	s.run(latest)
	s.expect("a3", "forwarded 1", "started 1", "deployed 1")
	s.expect("a1", "forwarded 1", "voided 1")

	c4, c5 := s.push("echo 4"), s.push("echo 5")
	s.order("b4", c4, false)
	s.order("b2", c2, false)
	s.order("b5", c5, false)
	s.run(latest)
	for _, name := range []string{"b4", "b2"} {
		s.expect(name, "forwarded 1", "voided 1")
		if v := last[eventlog.Voided](s, name); v.Reason != eventlog.ReasonSuperseded || v.SupersededBy != "b5" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	s.expect("b5", "forwarded 1", "started 1", "deployed 1")

	// Out of order: the newest commit came first, and must not be dropped.
	c6, c7, c8 := s.push("echo 6"), s.push("echo 7"), s.push("echo 8")
	s.order("c8", c8, false)
	s.order("c6", c6, false)
	s.order("c7", c7, false)
	s.run(latest)
	s.expect("c8", "forwarded 1", "started 1", "deployed 1")
	for name, reason := range map[string]eventlog.Reason{"c6": eventlog.ReasonSuperseded, "c7": eventlog.ReasonStale} {
		s.expect(name, "forwarded 1", "voided 1")
		if v := last[eventlog.Voided](s, name); v.Reason != reason {
			t.Errorf("%s: %+v", name, v)
		}
	}

	// A person's word, though it leads back, comes last and so wins.
	c9 := s.push("echo 9")
	s.order("d9", c9, false)
	s.order("d1", c1, true)
	s.run(latest)
	s.expect("d9", "forwarded 1", "voided 1")
	s.expect("d1", "forwarded 1", "started 1", "deployed 1")

	// A newer one that cannot be had takes nobody's place.
	s.order("e9", c9, false)
	s.order("lost", strings.Repeat("ab", 20), false)
	s.run(latest)
	s.expect("e9", "forwarded 1", "started 1", "deployed 1")
	s.expect("lost", "forwarded 1", "started 1", "failed 1")
	s.checkRuns()
}

func TestPendingEveryRunsEach(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c1, c2 := s.push("echo 1"), s.push("echo 2")
	s.order("a", c1, false)
	s.order("b", c2, false)
	s.run()
	s.expect("a", "forwarded 1", "started 1", "deployed 1")
	s.expect("b", "forwarded 1", "started 1", "deployed 1")
}

func TestDisabledVoids(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.push("echo 1")
	s.order("d", c, false)
	s.run(func(o *Options) { o.Deployment.Enabled, o.Handler = false, nil })
	s.expect("d", "forwarded 1", "voided 1")
	if v := last[eventlog.Voided](s, "d"); v.Reason != eventlog.ReasonDeploymentDisabled || !strings.Contains(v.Detail, "enabled = true") {
		t.Errorf("voided: %+v", v)
	}
	s.replay("d", c, 2)
	s.run()
	s.expect("d", "forwarded 1", "voided 1", "replayed 2", "started 2", "deployed 2")
}
