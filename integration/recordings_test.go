package integration

import (
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// recordHappy: two deployments of one repository, a push to both, another, one
// to nobody's branch, and a ping.
func recordHappy(t *testing.T) *site {
	r := newRepo(t)
	commits := r.pages("main", 2)
	deploy := func(slug string) deployment {
		return deployment{slug: slug, repository: "ada/web", remote: r, steps: []step{script("publish", "echo published")}}
	}
	s := newSite(t, pgtest.MigratedDSN(t), deploy("docs"), deploy("web"))
	p := s.start("serve")
	g := s.github(p.addr())
	for _, d := range []delivery{
		{newID(), "ping", []byte(`{"zen": "Design for failure."}`)}, push("ada/web", "main", commits[0]),
		push("ada/web", "feature", commits[1]), push("ada/web", "main", commits[1]),
	} {
		g.send(d)
		s.ends(d.id)
	}
	p.stop()
	return s
}

// recordFailure: a push that fails, is replayed once fixed, then by mistake;
// and one by hand that goes back.
func recordFailure(t *testing.T) *site {
	s, commits, fix := broken(t)
	p := s.start("serve")
	g := s.github(p.addr())
	first, second := push("ada/web", "main", commits[0]), push("ada/web", "main", commits[1])
	g.send(first)
	s.ends(first.id)
	g.send(second)
	s.ends(second.id)
	fix(true)
	s.must("replay", "--failed", "--reason", "the disk was full")
	s.ends(first.id, second.id)
	s.must("replay", first.id, "--reason", "by mistake")
	s.until("the mistake to be voided", func(all story) bool { return len(all.of(first.id).type_(eventlog.TypeVoided)) == 1 })
	s.must("deploy", "web", "--ref", commits[0], "--wait")
	p.stop()
	return s
}

// recordInterruption: the daemon is killed while two deployments run; the one
// is tried again, the other counts as failed.
func recordInterruption(t *testing.T) *site {
	r := newRepo(t)
	commits := r.pages("main", 1)
	gates := newGate(t)
	deploy := func(slug, policy string) deployment {
		return deployment{slug: slug, repository: "ada/web", remote: r, extra: policy, steps: []step{gates.step()}}
	}
	s := newSite(t, pgtest.MigratedDSN(t), deploy("careful", `on_interrupt = "fail"`), deploy("web", ""))
	p := s.start("serve")
	d := push("ada/web", "main", commits[0])
	s.github(p.addr()).send(d)
	gates.begun(2)
	p.kill()
	gates.open()
	p = s.start("serve")
	s.ends(d.id)
	p.stop()
	return s
}

// recordSuperseded: of what waits only the newest runs; an older commit that
// comes afterwards is stale.
func recordSuperseded(t *testing.T) *site {
	r := newRepo(t)
	commits := r.pages("main", 3)
	gates := newGate(t)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r, extra: `pending = "latest"`, steps: []step{gates.step()},
	})
	p := s.start("serve")
	g := s.github(p.addr())
	var ids []string
	for _, commit := range commits {
		d := push("ada/web", "main", commit)
		g.send(d)
		ids = append(ids, d.id)
		s.until("the forward of "+d.id, func(all story) bool { return len(all.of(d.id)) >= 2 })
		gates.begun(1)
	}
	gates.open()
	s.ends(ids...)
	old := push("ada/web", "main", commits[0])
	g.send(old)
	s.ends(old.id)
	p.stop()
	return s
}

// recordRedelivery: what failed is retried by a redelivery, what went well and
// what was voided is not.
func recordRedelivery(t *testing.T) *site {
	s, commits, fix := broken(t)
	p := s.start("serve")
	g := s.github(p.addr())
	d, elsewhere := push("ada/web", "main", commits[0]), push("ada/web", "feature", commits[0])
	g.send(elsewhere)
	g.send(d)
	s.ends(d.id, elsewhere.id)
	fix(true)
	again := func(d delivery, n int) {
		g.send(d)
		s.until("the redelivery", func(all story) bool {
			return len(all.of(d.id).type_(eventlog.TypeRedelivered)) == n && all.of(d.id).ended()
		})
	}
	again(d, 1)
	again(d, 2)
	again(elsewhere, 1)
	p.stop()
	return s
}
