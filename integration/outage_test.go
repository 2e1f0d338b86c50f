package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// gate is a step that waits until it is let through, so that a test can act
// while it runs.
type gate struct {
	t   *testing.T
	dir string
}

func newGate(t *testing.T) gate { return gate{t, tempDir(t)} }

// step notes that it has begun, and waits; it is over when the gate opens.
func (g gate) step() step {
	return script("gate", fmt.Sprintf(`echo "$DURHACK_ATTEMPT" >> '%[1]s/begun'; until [ -e '%[1]s/open' ]; do sleep 0.02; done`, g.dir))
}

// begun waits until the step has begun n times in all.
func (g gate) begun(n int) {
	g.t.Helper()
	await(g.t, "the step to run", func() bool { return g.times() >= n })
}

func (g gate) times() int {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "begun"))
	if err != nil && !os.IsNotExist(err) {
		g.t.Fatal(err)
	}
	n := 0
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	return n
}

func (g gate) open() {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "open"), nil, 0o644); err != nil {
		g.t.Fatal(err)
	}
}

func (g gate) shut() {
	g.t.Helper()
	if err := os.Remove(filepath.Join(g.dir, "open")); err != nil {
		g.t.Fatal(err)
	}
}

// An acknowledgement needs no database; what was acknowledged needs no restart.
func TestPostgresIsDownWhenAPushArrives(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 3)
	pg := pgtest.NewServer(t)
	s := newSite(t, pg.Database(t, "deployer"), deployment{slug: "web", repository: "ada/web", remote: r})

	// Down from the start of the daemon on.
	pg.Stop(t)
	p := s.start("serve")
	g := s.github(p.addr())
	first := push("ada/web", "main", commits[0])
	g.send(first)
	if n := len(s.queued("main")); n != 1 {
		t.Errorf("%d files wait in the main queue, want 1", n)
	}
	p.says("waiting for the database")
	pg.Start(t)
	s.ends(first.id)
	s.live("web", commits[0])

	// Down while it is running, in order and by a crash.
	for i, down := range []func(testing.TB){pg.Stop, pg.Kill} {
		down(t)
		d, other := push("ada/web", "main", commits[i+1]), push("ada/elsewhere", "main", commits[i+1])
		g.send(d)
		g.send(other)
		if n := len(s.queued("main")); n != 2 {
			t.Errorf("%d files wait in the main queue, want 2", n)
		}
		pg.Start(t)
		s.ends(d.id, other.id)
		s.live("web", commits[i+1])
		s.accounted(first.id, d.id, other.id)
	}
	p.stop()
}

// The run goes on without a database, and its end is recorded when there is one.
func TestPostgresIsKilledInMidDeploy(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	pg := pgtest.NewServer(t)
	gates := newGate(t)
	s := newSite(t, pg.Database(t, "deployer"), deployment{
		slug: "web", repository: "ada/web", remote: r, steps: []step{gates.step()},
	})
	p := s.start("serve")
	g := s.github(p.addr())
	first, second := push("ada/web", "main", commits[0]), push("ada/web", "main", commits[1])
	g.send(first)
	gates.begun(1)
	pg.Kill(t)
	gates.open()
	g.send(second) // acknowledged meanwhile
	result := filepath.Join(s.state, "runs", "web", first.id+"-1.result.json")
	await(t, "the result to be kept in a file", func() bool {
		_, err := os.Stat(result)
		return err == nil
	})
	pg.Start(t)
	all := s.ends(first.id, second.id)
	if got := all.of(first.id).types(); got != "received forwarded started deployed" {
		t.Errorf("the story: %s", got)
	}
	if n := gates.times(); n != 2 {
		t.Errorf("the step ran %d times for two deliveries", n)
	}
	s.only("deployed", all.of(first.id).type_(eventlog.TypeDeployed))
	s.live("web", commits[1])
	s.accounted(first.id, second.id)
	if _, err := os.Stat(result); !os.IsNotExist(err) {
		t.Errorf("the result stays behind: %v", err)
	}
	p.stop()
}
