package integration

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestPush_GoesLive(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	s := newSite(t, pgtest.DSN(t),
		deployment{slug: "web", repository: "ada/web", remote: r, steps: []step{script("show", "cat index.html")}},
		deployment{slug: "other", repository: "ada/other", remote: r})
	p := s.start("serve")
	g := s.github(p.addr())
	d := push("ada/web", "main", commits[1])
	g.send(d)
	all := s.ends(d.id)
	if got := all.types(); got != "received forwarded started deployed" {
		t.Fatalf("the story: %s\n%s", got, all)
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, "www", "web", "index.html")); err != nil || string(b) != "<h1>2</h1>\n" {
		t.Errorf("checked out: %q, %v", b, err)
	}
	s.live("web", commits[1])
	if status := s.status()["other"].Status; status != "never" {
		t.Errorf("other is %s", status)
	}
	why := s.must("why", d.id)
	for _, want := range []string{"received", "forwarded", "started", "deployed", commits[1][:12], "ada"} {
		if !strings.Contains(why, want) {
			t.Errorf("why does not say %q:\n%s", want, why)
		}
	}
	s.accounted(d.id)
	p.stop()
	s.accounted(d.id)
}

// GitHub's retries, a proxy's and a person's at its page may all come together.
func TestDelivery_SameFiftyTimesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	tip := r.pages("main", 1)[0]
	count := filepath.Join(tempDir(t), "count")
	s := newSite(t, pgtest.MigratedDSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r, steps: []step{script("count", `echo "$DURHACK_DELIVERY_ID" >> `+count)},
	})
	p := s.start("serve")
	g := s.github(p.addr())
	d := push("ada/web", "main", tip)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if status, err := g.post(d); err != nil || status != 202 {
				t.Errorf("status %d, %v", status, err)
			}
		})
	}
	wg.Wait()
	all := s.until("fifty of them in the log", func(all story) bool {
		return len(all.type_(eventlog.TypeReceived, eventlog.TypeRedelivered)) == 50 && all.of(d.id).ended()
	})
	s.only("received", all.type_(eventlog.TypeReceived))
	s.only("forwarded", all.type_(eventlog.TypeForwarded))
	s.only("deployed", all.type_(eventlog.TypeDeployed))
	for _, e := range all.type_(eventlog.TypeRedelivered) {
		if again := data[eventlog.Redelivered](s, e); again.Action != eventlog.ActionIgnored {
			t.Errorf("position %d: %+v", e.Position, again)
		}
	}
	if b, err := os.ReadFile(count); err != nil || string(b) != d.id+"\n" {
		t.Errorf("ran for %q, %v", b, err)
	}
	s.accounted(d.id)
	p.stop()
}

func TestPush_ThirtyAreDeployedInTheirOrder(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 30)
	order := filepath.Join(tempDir(t), "order")
	s := newSite(t, pgtest.MigratedDSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r, steps: []step{script("note", `git rev-parse HEAD >> `+order)},
	})
	p := s.start("serve")
	g := s.github(p.addr())
	var ids []string
	for _, c := range commits {
		d := push("ada/web", "main", c)
		g.send(d)
		ids = append(ids, d.id)
	}
	all := s.ends(ids...)
	for _, kind := range []eventlog.Type{eventlog.TypeReceived, eventlog.TypeStarted, eventlog.TypeDeployed} {
		got := all.type_(kind)
		if len(got) != len(ids) {
			t.Fatalf("%d %s, want %d\n%s", len(got), kind, len(ids), all)
		}
		for i, e := range got {
			if e.DeliveryID != ids[i] {
				t.Errorf("%s number %d is of %s, want %s", kind, i, e.DeliveryID, ids[i])
			}
		}
	}
	if b, err := os.ReadFile(order); err != nil || strings.Join(commits, "\n")+"\n" != string(b) {
		t.Errorf("the checkouts were, in order (%v):\n%s", err, b)
	}
	s.live("web", commits[29])
	s.accounted(ids...)
	p.stop()
}
