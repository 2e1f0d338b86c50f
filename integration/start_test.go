package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// Two instances start at once on an empty database, among commands that
// migrate it too, and then share the log: GitHub sends both the same GUID.
func TestDaemon_TwoStartAtOnceOnOneDatabase(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	tip := r.pages("main", 1)[0]
	dsn := pgtest.DSN(t)
	var sites []*site
	for _, name := range []string{"one", "two"} {
		s := newSite(t, dsn, deployment{slug: "web", repository: "ada/web", remote: r})
		s.instance = name
		s.configure()
		sites = append(sites, s)
	}
	var migrations sync.WaitGroup
	for _, s := range sites {
		for range 2 {
			migrations.Go(func() {
				if r := s.command("migrate"); r.code != 0 {
					t.Errorf("migrate: %+v", r)
				}
			})
		}
	}
	var daemons []*process
	for _, s := range sites {
		daemons = append(daemons, s.start("serve"))
	}
	d := push("ada/web", "main", tip)
	for i, s := range sites {
		s.github(daemons[i].addr()).send(d)
	}
	migrations.Wait()
	sites[0].until("both to have deployed it", func(all story) bool {
		return len(all.type_(eventlog.TypeDeployed)) == 2
	})
	for i, s := range sites {
		own := s.events().where(func(e eventlog.Event) bool { return e.Instance == s.instance })
		if got := own.types(); got != "received forwarded started deployed" {
			t.Errorf("the story of %s: %s", s.instance, got)
		}
		s.live("web", tip)
		s.accounted(d.id)
		daemons[i].stop()
	}
}

// The private Postgres outlives a daemon that is killed, and the next one
// takes it over; the daemon that ends in order ends it.
func TestPostgres_PrivateIsAdopted(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	s := newSite(t, "", deployment{slug: "web", repository: "ada/web", remote: r})
	postmaster := func() int {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(s.state, "postgres", "data", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.SplitN(string(b), "\n", 2)[0])
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	went := func(id string) {
		t.Helper()
		await(t, "the delivery to be deployed", func() bool {
			return strings.Contains(s.command("log", "--json", "--delivery", id).out, `"type":"deployed"`)
		})
	}
	p := s.start("serve")
	first := push("ada/web", "main", commits[0])
	s.github(p.addr()).send(first)
	went(first.id)
	pid := postmaster()
	p.kill()
	if !alive(pid) {
		t.Fatal("Postgres died with the daemon")
	}
	p = s.start("serve")
	second := push("ada/web", "main", commits[1])
	s.github(p.addr()).send(second)
	went(second.id)
	if now := postmaster(); now != pid {
		t.Errorf("Postgres is process %d now, and was %d", now, pid)
	}
	s.live("web", commits[1])
	s.verified()
	p.stop()
	if alive(pid) {
		t.Error("Postgres still runs")
	}
	// A command starts it for as long as it needs it.
	s.live("web", commits[1])
	if s.verified(); alive(postmasterOrNone(s)) {
		t.Error("a command left Postgres running")
	}
}

func postmasterOrNone(s *site) int {
	b, err := os.ReadFile(filepath.Join(s.state, "postgres", "data", "postmaster.pid"))
	if err != nil {
		return 1 << 30
	}
	pid, _ := strconv.Atoi(strings.SplitN(string(b), "\n", 2)[0])
	return pid
}
