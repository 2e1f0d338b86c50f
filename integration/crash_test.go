package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestKilledAgainAndAgainUnderLoad(t *testing.T) {
	t.Parallel()
	const pushes, crashes = 60, 16
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	web, docs := newRepo(t), newRepo(t)
	webCommits, docsCommits := web.pages("main", pushes), docs.pages("main", pushes)
	probes := map[string]string{}
	deploy := func(slug, repository string, r *repo, extra string) deployment {
		probes[slug] = tempDir(t)
		return deployment{slug: slug, repository: repository, remote: r, extra: extra, steps: []step{
			// The kernel drops the lock with the last process that has it, so that
			// one that a killed daemon left behind is noticed too. Some are deaf.
			script("overlap", fmt.Sprintf(`case $DURHACK_COMMIT in *[01]) trap '' TERM; nap=0.6;; *) nap=0.03;; esac
				flock --nonblock '%[1]s/lock' sleep $nap || { touch '%[1]s/overlap'; exit 9; }`, probes[slug])),
		}}
	}
	s := newSite(t, pgtest.MigratedDSN(t),
		deploy("web", "ada/web", web, ""),
		deploy("mirror", "ada/web", web, `on_interrupt = "fail"`),
		deploy("docs", "ada/docs", docs, `pending = "latest"`))

	// Each of them twice, in any order, from several clients.
	var load []delivery
	for i := range pushes {
		d := push("ada/web", "main", webCommits[i])
		if i%3 == 0 {
			d = push("ada/docs", "main", docsCommits[i])
		}
		load = append(load, d, d)
	}
	random.Shuffle(len(load), func(i, j int) { load[i], load[j] = load[j], load[i] })
	g := s.github(noAddr())
	stop, feed := make(chan struct{}), make(chan delivery)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for d := range feed {
				if !g.insist(d, stop) {
					return
				}
				mu.Lock()
				acknowledged[d.id] = true
				mu.Unlock()
			}
		})
	}
	pauses := make([]time.Duration, len(load))
	for i := range pauses {
		pauses[i] = time.Duration(random.Int64N(int64(120 * time.Millisecond)))
	}
	clients.Go(func() {
		defer close(feed)
		for i, d := range load {
			select {
			case feed <- d:
			case <-stop:
				return
			}
			time.Sleep(pauses[i])
		}
	})
	t.Cleanup(func() {
		select {
		case <-stop:
		default:
			close(stop)
		}
		clients.Wait()
	})

	for i := range crashes {
		p := s.start("serve")
		g.addr.Store(p.addr())
		// From before anything is routed to the middle of a run, or of a drain.
		time.Sleep(time.Duration(random.Int64N(int64(700 * time.Millisecond))))
		if i%4 == 3 {
			p.signal(syscall.SIGTERM)
			time.Sleep(time.Duration(random.Int64N(int64(50 * time.Millisecond))))
		}
		p.kill()
	}
	p := s.start("serve")
	g.addr.Store(p.addr())
	clients.Wait()
	ids := make([]string, 0, len(acknowledged))
	for id := range acknowledged {
		ids = append(ids, id)
	}
	if len(ids) != pushes {
		t.Errorf("%d deliveries were acknowledged, want %d", len(ids), pushes)
	}
	// A redelivery of what failed orders a new run, so the end is when nothing
	// waits in any queue and everything has ended.
	s.until("the end of everything", func(all story) bool {
		for _, name := range append([]string{"main"}, s.slugs()...) {
			if len(s.queued(name)) > 0 {
				return false
			}
		}
		for _, id := range ids {
			if !all.of(id).ended() {
				return false
			}
		}
		return true
	})
	s.accounted(ids...)
	for slug, dir := range probes {
		if _, err := os.Stat(filepath.Join(dir, "overlap")); !os.IsNotExist(err) {
			t.Errorf("two runs of %s at once (%v)", slug, err)
		}
	}
	p.stop()
	s.accounted(ids...)
	if left := s.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// leftovers lists the files of unfinished work, of which none may be left once
// all has ended.
func (s *site) leftovers() []string {
	s.t.Helper()
	var left []string
	for _, pattern := range []string{"runs/*/*.result.json", "runs/*/*.process", "runs/*/*.tmp", "queues/*/.tmp-*"} {
		found, err := filepath.Glob(filepath.Join(s.state, pattern))
		if err != nil {
			s.t.Fatal(err)
		}
		left = append(left, found...)
	}
	for i, name := range left {
		left[i] = strings.TrimPrefix(name, s.state+"/")
	}
	return left
}
