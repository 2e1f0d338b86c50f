//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/redistest"
)

// lockServer is a server that the test may stop.
func lockServer(t *testing.T) *redistest.Server {
	t.Helper()
	server, err := redistest.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	return server
}

// lockURL is that of the given server, or of one of the test's own. The locks of
// tests on a shared server are told apart by the names of the deployments.
func lockURL(t *testing.T) string {
	t.Helper()
	if url := os.Getenv(redistest.URLEnv); url != "" {
		return url
	}
	return lockServer(t).URL()
}

// locked has locks that a busy daemon refreshes in time.
func locked(url string) string { return fmt.Sprintf("[lock]\nurl = %q\nttl = \"5s\"", url) }

// Two hosts, one instance: they share the log and the lock server, and each has
// its own queues. The first one runs a deploy, and nobody else does.
func TestRedis_TwoWorkersShareIt(t *testing.T) {
	t.Parallel()
	const pushes = 24
	r := newRepo(t)
	commits := r.pages("main", pushes)
	dsn, url, shared := pgtest.DSN(t), lockURL(t), tempDir(t)
	slugs := []string{strings.ToLower(newID()), strings.ToLower(newID())}
	var hosts []*site
	var ids []string
	for range 2 {
		var deployments []deployment
		for _, slug := range slugs {
			deployments = append(deployments, deployment{
				slug: slug, repository: "ada/web", remote: r, path: filepath.Join(shared, slug),
				steps: []step{script("overlap", fmt.Sprintf(
					`flock --nonblock '%[1]s/%[2]s.lock' sh -c 'sleep 0.1' || { touch '%[1]s/overlap'; exit 9; }; echo "$DURHACK_DELIVERY_ID" >> '%[1]s/%[2]s.ran'`, shared, slug))},
			})
		}
		s := newSite(t, dsn, deployments...)
		s.extra = locked(url)
		s.configure()
		hosts = append(hosts, s)
	}
	// One of them has the listener, too; the other is told by the log alone.
	first, second := hosts[0].start("serve"), hosts[1].start("work")
	second.says("msg=working")
	g := hosts[0].github(first.addr())
	for _, c := range commits {
		d := push("ada/web", "main", c)
		g.send(d)
		ids = append(ids, d.id)
		if len(ids) == pushes/2 {
			// The one that may be holding a lock dies; the other must go on.
			second.kill()
			second = hosts[1].start("work")
		}
	}
	all := hosts[0].ends(ids...)
	for _, slug := range slugs {
		ended := all.at(slug).type_(eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeVoided)
		if len(ended) != pushes {
			t.Errorf("%s: %d ends, want %d\n%s", slug, len(ended), pushes, all.at(slug))
		}
	}
	if _, err := os.Stat(filepath.Join(shared, "overlap")); !os.IsNotExist(err) {
		t.Errorf("two hosts deployed at once (%v)", err)
	}
	for _, s := range hosts {
		await(t, "the queues to be empty", func() bool {
			for _, slug := range slugs {
				if len(s.queued(slug)) > 0 {
					return false
				}
			}
			return true
		})
		s.accounted(ids...)
	}
	first.stop()
	second.stop()
}

// A lost lock cancels the run: somebody else may be deploying by now.
func TestRedisIsKilledInMidDeploy(t *testing.T) {
	t.Parallel()
	s, gates, commits := gated(t, "")
	server := lockServer(t)
	s.extra = locked(server.URL())
	s.configure()
	p := s.start("serve")
	g := s.github(p.addr())
	first, second := push("ada/web", "main", commits[0]), push("ada/web", "main", commits[1])
	g.send(first)
	gates.begun(1)
	server.Kill()
	g.send(second) // acknowledged without a lock server
	all := s.until("the end of the run whose lock was lost", func(all story) bool {
		return len(all.of(first.id).type_(eventlog.TypeFailed, eventlog.TypeInterrupted)) > 0
	})
	end := all.of(first.id).type_(eventlog.TypeFailed, eventlog.TypeInterrupted)[0]
	if !strings.Contains(string(end.Data), "lock") {
		t.Errorf("the end does not say why: %s", end.Data)
	}
	if n := len(all.type_(eventlog.TypeStarted)); n != 1 {
		t.Errorf("%d runs were started without a lock server", n-1)
	}
	if strings.Contains(p.output(), redistest.Password) {
		t.Error("the log has the password")
	}
	gates.open()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.ends(first.id, second.id)
	s.live("web", commits[1])
	s.accounted(first.id, second.id)
	p.stop()
}

// Pushes that arrive while the lock server is away wait for it, and a daemon
// that is stopped meanwhile ends in order.
func TestRedisIsAwayWhenAPushArrives(t *testing.T) {
	t.Parallel()
	s, gates, commits := gated(t, "")
	gates.open()
	server := lockServer(t)
	s.extra = locked(server.URL())
	s.configure()
	server.Kill()
	p := s.start("serve")
	d := push("ada/web", "main", commits[0])
	s.github(p.addr()).send(d)
	s.until("it to be routed", func(all story) bool { return all.of(d.id).types() == "received forwarded" })
	p.stop()
	p = s.start("serve")
	p.addr()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.ends(d.id)
	s.live("web", commits[0])
	s.accounted(d.id)
	p.stop()
}

// What was ordered while a host was down, and not done by the one that was up
// then, is done by the first when it comes back.
func TestRedis_HostThatWasDownTakesOver(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	gates := newGate(t)
	dsn, server, shared := pgtest.DSN(t), lockServer(t), tempDir(t)
	var hosts []*site
	for range 2 {
		s := newSite(t, dsn, deployment{
			slug: "web", repository: "ada/web", remote: r, path: filepath.Join(shared, "web"), steps: []step{gates.step()},
		})
		s.extra = locked(server.URL())
		s.configure()
		hosts = append(hosts, s)
	}
	second := hosts[1].start("work")
	second.says("msg=working")
	first := hosts[0].start("serve")
	g := hosts[0].github(first.addr())
	gates.open()
	before := push("ada/web", "main", commits[0])
	g.send(before)
	hosts[0].ends(before.id)
	await(t, "the second to know that it is done", func() bool { return len(hosts[1].queued("web")) == 0 })
	second.stop()
	gates.shut()
	d := push("ada/web", "main", commits[1])
	g.send(d)
	gates.begun(2)
	first.stop()
	gates.open()
	second = hosts[1].start("work")
	all := hosts[1].ends(d.id)
	if got := all.of(d.id).types(); got != "received forwarded started interrupted started deployed" {
		t.Errorf("the story: %s", got)
	}
	hosts[1].accounted(before.id, d.id)
	second.stop()
	first = hosts[0].start("serve")
	await(t, "the first to know that it is done", func() bool { return len(hosts[0].queued("web")) == 0 })
	hosts[0].accounted(before.id, d.id)
	first.stop()
}
