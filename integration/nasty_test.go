package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	proc "github.com/ducompsoc/durhack-deployer/internal/process"
)

// memoryLimit is far above what the daemon needs at rest (some 30 MiB), and far
// below what the step that prints 50 MiB would need if its output were kept.
const memoryLimit = 64 << 20

func TestNastySteps(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(tempDir(t), "pids")
	r := newRepo(t)
	nasty := []struct {
		name, script string
		step         string // of the failure; empty where it goes live
		check        func(s *site, f eventlog.Failed)
	}{
		{name: "prints 50 MiB in one line", script: `head -c 52428800 /dev/zero | tr '\0' x`},
		{name: "prints 50 MiB in lines, to stderr, and fails", script: `yes 'all work and no play' | head -c 52428800 >&2; exit 4`, step: "deploy",
			check: func(s *site, f eventlog.Failed) {
				if f.ExitCode == nil || *f.ExitCode != 4 || !strings.Contains(f.OutputTail, "all work and no play") || len(f.OutputTail) > 8<<10 {
					s.t.Errorf("%+v", f)
				}
			}},
		{name: "never ends, and will not listen", script: `trap '' TERM; while :; do sleep 1; done`, step: "short",
			check: func(s *site, f eventlog.Failed) {
				if f.ExitCode != nil || f.Signal != "SIGKILL" || f.Steps[len(f.Steps)-1].Result != "timeout" {
					s.t.Errorf("%+v", f)
				}
			}},
		{name: "leaves a child in the background", script: `sleep 1000 & echo $! >> ` + pids + `; (trap '' TERM; sleep 1000) & echo $! >> ` + pids},
		{name: "exits 3", script: `echo the reason; exit 3`, step: "deploy",
			check: func(s *site, f eventlog.Failed) {
				if f.ExitCode == nil || *f.ExitCode != 3 || !strings.HasSuffix(strings.TrimSpace(f.OutputTail), "the reason") {
					s.t.Errorf("%+v", f)
				}
			}},
		{name: "is not found", step: "deploy",
			check: func(s *site, f eventlog.Failed) {
				if f.ExitCode != nil || f.Signal != "" || !strings.Contains(f.Error, "deploy.sh") || !strings.Contains(f.Error, "found") {
					s.t.Errorf("%+v", f)
				}
			}},
		{name: "kills itself", script: `kill -SEGV $$`, step: "deploy",
			check: func(s *site, f eventlog.Failed) {
				if f.ExitCode != nil || f.Signal != "SIGSEGV" {
					s.t.Errorf("%+v", f)
				}
			}},
		{name: "is fine", script: `echo fine`},
	}
	var commits []commit
	for _, n := range nasty {
		files := map[string]string{"README": "a file\n"}
		if n.script != "" {
			files["deploy.sh"] = "#!/bin/sh\n" + n.script + "\n"
		}
		if n.step == "short" {
			files["short"] = "yes\n"
		}
		commits = append(commits, commit{n.name, files})
	}
	hashes := r.push("main", commits...)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{
		slug: "web", repository: "ada/web", remote: r,
		steps: []step{
			// What should end has all the time that a busy machine may need.
			{name: "short", run: []string{"sh", "-c", "test ! -e short || exec ./deploy.sh"}, timeout: "5s"},
			{name: "deploy", run: []string{"./deploy.sh"}, timeout: "10m"},
		},
	})
	p := s.start("serve")
	g := s.github(p.addr())
	var ids []string
	for _, hash := range hashes {
		d := push("ada/web", "main", hash)
		g.send(d)
		ids = append(ids, d.id)
	}
	all := s.ends(ids...)
	for i, n := range nasty {
		events := all.of(ids[i])
		end := events[len(events)-1]
		if n.step == "" {
			if end.Type != eventlog.TypeDeployed {
				t.Errorf("%s: %s", n.name, events)
			}
			continue
		}
		if end.Type != eventlog.TypeFailed {
			t.Errorf("%s: %s", n.name, events)
			continue
		}
		f := data[eventlog.Failed](s, end)
		if f.Step != n.step || f.Error == "" {
			t.Errorf("%s: %+v", n.name, f)
		}
		n.check(s, f)
		why := s.must("why", ids[i])
		for _, want := range []string{n.step, filepath.Join("runs", "web", ids[i]+"-1.log")} {
			if !strings.Contains(why, want) {
				t.Errorf("why does not say %q:\n%.2000s", want, why)
			}
		}
	}
	if why := s.must("why", ids[4]); !strings.Contains(why, "code 3") || !strings.Contains(why, "the reason") {
		t.Errorf("why says neither the exit code nor the last words:\n%s", why)
	}
	for _, id := range ids[:2] {
		if info, err := os.Stat(filepath.Join(s.state, "runs", "web", id+"-1.log")); err != nil || info.Size() > 32<<20 {
			t.Errorf("the run log of 50 MiB: %v, %v", info, err)
		}
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	if children := strings.Fields(string(b)); len(children) != 2 {
		t.Errorf("children %q", children)
	} else {
		for _, child := range children {
			if pid, err := strconv.Atoi(child); err != nil || alive(pid) {
				t.Errorf("child %s outlived its step (%v)", child, err)
			}
		}
	}
	s.live("web", hashes[len(hashes)-1])
	s.accounted(ids...)
	if peak := p.peakMemory(); raced {
		t.Logf("peak memory with the race detector, not judged: %d MiB", peak>>20)
	} else if t.Logf("peak memory: %d MiB", peak>>20); peak > memoryLimit {
		t.Errorf("the daemon had %d MiB in memory, more than %d", peak>>20, memoryLimit>>20)
	}
	p.stop()
}

// alive says whether a process runs; one that nobody has reaped does not.
func alive(pid int) bool {
	s, there := proc.ReadStat(pid)
	return there && s.Alive()
}
