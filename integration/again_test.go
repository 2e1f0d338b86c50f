package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// broken is a site whose deployment fails until it is fixed.
func broken(t *testing.T) (s *site, commits []string, fix func(bool)) {
	t.Helper()
	r := newRepo(t)
	commits = r.pages("main", 3)
	flag := filepath.Join(tempDir(t), "fixed")
	s = newSite(t, pgtest.MigratedDSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r, steps: []step{script("test", "test -e "+flag)},
	})
	return s, commits, func(fixed bool) {
		t.Helper()
		err := os.Remove(flag)
		if fixed {
			err = os.WriteFile(flag, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRedelivery_RetriesWhatFailedAndNothingElse(t *testing.T) {
	t.Parallel()
	s, commits, fix := broken(t)
	p := s.start("serve")
	g := s.github(p.addr())
	d := push("ada/web", "main", commits[0])
	ping := delivery{newID(), "ping", []byte(`{"zen": "Approachable is better than simple."}`)}
	elsewhere := push("ada/web", "feature", commits[0])
	g.send(ping)
	g.send(elsewhere)
	g.send(d)
	all := s.ends(d.id, ping.id, elsewhere.id)
	if got := all.of(d.id).types(); got != "received forwarded started failed" {
		t.Fatalf("the story: %s", got)
	}

	again := func(d delivery, want string) {
		t.Helper()
		g.send(d)
		s.until("the story of "+d.id+" to be: "+want, func(all story) bool { return all.of(d.id).types() == want })
	}
	again(d, "received forwarded started failed redelivered started failed")
	fix(true)
	again(d, "received forwarded started failed redelivered started failed redelivered started deployed")
	again(d, "received forwarded started failed redelivered started failed redelivered started deployed redelivered")
	again(ping, "received voided redelivered")
	again(elsewhere, "received voided redelivered")

	var actions []string
	for _, e := range s.events().type_(eventlog.TypeRedelivered) {
		actions = append(actions, data[eventlog.Redelivered](s, e).Action)
	}
	if got := strings.Join(actions, " "); got != "retried retried ignored ignored ignored" {
		t.Errorf("redeliveries were: %s", got)
	}
	s.live("web", commits[0])
	if row := s.status()["web"]; row.Attempt == nil || *row.Attempt != 3 {
		t.Errorf("status: %+v", row)
	}
	s.accounted(d.id, ping.id, elsewhere.id)
	p.stop()
}

func TestReplayAndDeployByHand(t *testing.T) {
	t.Parallel()
	s, commits, fix := broken(t)
	p := s.start("serve")
	g := s.github(p.addr())
	first, second := push("ada/web", "main", commits[0]), push("ada/web", "main", commits[1])
	g.send(first)
	g.send(second)
	s.ends(first.id, second.id)
	fix(true)
	if r := s.command("replay", "--failed"); r.code != 2 || !strings.Contains(r.stderr, "--reason") {
		t.Errorf("a replay without a reason: %+v", r)
	}
	s.must("replay", "--failed", "--reason", "the disk was full")
	all := s.ends(first.id, second.id)
	for _, id := range []string{first.id, second.id} {
		if got := all.of(id).types(); got != "received forwarded started failed replayed started deployed" {
			t.Errorf("the story: %s", got)
		}
	}
	replayed := data[eventlog.Replayed](s, all.of(first.id).type_(eventlog.TypeReplayed)[0])
	if replayed.Reason != "the disk was full" {
		t.Errorf("%+v", replayed)
	}
	s.live("web", commits[1])

	// The older one is behind what is live, and not the tip: never by accident.
	s.must("replay", first.id, "--reason", "by mistake")
	all = s.until("the second replay's end", func(all story) bool {
		return strings.HasSuffix(all.of(first.id).types(), "replayed voided")
	})
	void := data[eventlog.Voided](s, all[len(all)-1])
	if void.Reason != eventlog.ReasonStale {
		t.Errorf("%+v", void)
	}
	s.live("web", commits[1])

	// On purpose, by hand.
	s.must("deploy", "web", "--ref", commits[0], "--wait")
	s.live("web", commits[0])
	s.must("deploy", "web", "--wait") // the tip
	s.live("web", commits[2])
	fix(false)
	if r := s.command("deploy", "web", "--wait"); r.code != 1 {
		t.Errorf("a deploy that fails: %+v", r)
	}
	s.accounted(first.id, second.id)
	p.stop()
}
