package integration

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// gated is a site with one deployment whose step waits for the gate.
func gated(t *testing.T, extra string) (*site, gate, []string) {
	t.Helper()
	r := newRepo(t)
	commits := r.pages("main", 3)
	g := newGate(t)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r, extra: extra, steps: []step{g.step()},
	})
	return s, g, commits
}

func TestSIGTERM_LetsARunningStepFinish(t *testing.T) {
	t.Parallel()
	s, gates, commits := gated(t, "")
	p := s.start("serve")
	addr := p.addr()
	g := s.github(addr)
	first, second := push("ada/web", "main", commits[0]), push("ada/web", "main", commits[1])
	g.send(first)
	g.send(second)
	gates.begun(1)
	p.signal(syscall.SIGTERM)
	p.says("msg=draining")
	// The step still runs; a push that comes meanwhile would not come again.
	third := push("ada/web", "main", commits[2])
	g.send(third)
	if got := s.events().of(first.id).types(); got != "received forwarded started" {
		t.Errorf("the story, while draining: %s", got)
	}
	gates.open()
	p.exits(0)
	refuses(t, addr)
	all := s.events()
	if got := all.of(first.id).types(); got != "received forwarded started deployed" {
		t.Errorf("the story: %s", got)
	}
	if got := all.of(second.id).type_(eventlog.TypeStarted); len(got) != 0 {
		t.Errorf("a run began after the signal:\n%s", got)
	}
	// The read models know the end, too.
	if row := s.status()["web"]; row.Status == "running" || row.Commit == nil || *row.Commit != commits[0] {
		t.Errorf("status: %+v", row)
	}
	// What was left waits for the next start.
	p = s.start("serve")
	s.ends(second.id, third.id)
	s.live("web", commits[2])
	s.accounted(first.id, second.id, third.id)
	p.stop()
}

// A step that takes longer than the grace is ended, and by policy run again.
func TestSIGTERM_EndsAStepThatTakesTooLong(t *testing.T) {
	t.Parallel()
	s, gates, commits := gated(t, "")
	p := s.start("serve")
	d := push("ada/web", "main", commits[0])
	s.github(p.addr()).send(d)
	gates.begun(1)
	p.stop()
	all := s.events()
	if got := all.of(d.id).types(); got != "received forwarded started interrupted" {
		t.Fatalf("the story: %s", all)
	}
	if i := data[eventlog.Interrupted](s, all[len(all)-1]); i.Then != "retry" || i.Step != "gate" {
		t.Errorf("%+v", i)
	}
	for _, row := range s.status() {
		if row.Status == "running" {
			t.Errorf("nothing runs, and status says %+v", row)
		}
	}
	gates.open()
	p = s.start("serve")
	all = s.ends(d.id)
	if got := all.of(d.id).types(); got != "received forwarded started interrupted started deployed" {
		t.Errorf("the story: %s", got)
	}
	s.accounted(d.id)
	p.stop()
}

// The second signal gives up at once; the next start finds what was going on.
func TestSIGTERM_SecondGivesUpAtOnce(t *testing.T) {
	t.Parallel()
	s, gates, commits := gated(t, `on_interrupt = "fail"`)
	p := s.start("serve")
	d := push("ada/web", "main", commits[0])
	s.github(p.addr()).send(d)
	gates.begun(1)
	p.signal(syscall.SIGTERM)
	p.says("msg=draining")
	// Signals that come in the same moment are one.
	for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		default:
			continue
		}
		tick.Stop()
		break
	}
	p.exits(1)
	if !strings.Contains(p.output(), "giving up at once") {
		t.Errorf("it ended otherwise:\n%s", p.output())
	}
	p = s.start("serve")
	all := s.ends(d.id)
	if got := all.of(d.id).types(); got != "received forwarded started interrupted failed" {
		t.Errorf("the story: %s", got)
	}
	// The step of the daemon that gave up must not have survived.
	s.accounted(d.id)
	p.stop()
	if left := s.leftovers(); len(left) > 0 {
		t.Errorf("left behind in %s: %q", filepath.Base(s.state), left)
	}
}
