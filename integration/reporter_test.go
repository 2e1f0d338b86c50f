package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// newHub starts a stand-in of GitHub's API, and has the site's daemons tell it of deploys.
func (s *site) newHub() *githubtest.Server {
	s.t.Helper()
	hub := &githubtest.Server{}
	if err := hub.Start("127.0.0.1:0"); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(hub.Close)
	token := filepath.Join(s.dir, "github-token")
	if err := os.WriteFile(token, []byte(githubtest.Token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.extra = fmt.Sprintf("[github]\ntoken_file = %q\napi_url = %q\ndeployments = true\n", token, hub.URL())
	s.configure()
	return hub
}

// states are those that a stand-in was told of a commit.
func states(hub *githubtest.Server, commit string) (list []string) {
	for _, st := range hub.Statuses() {
		if st.SHA == commit {
			list = append(list, st.State)
		}
	}
	return list
}

func last(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

// The daemon is killed while a request hangs: what it was about is told by the next one.
func TestReporter_SilentGitHubHoldsUpNoDeploy(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{slug: "web", repository: "ada/web", remote: r})
	hub := s.newHub()
	hub.Fail(githubtest.Failure{Silent: true})
	p := s.start("serve")
	p.says(`msg=working`)
	g := s.github(p.addr())
	for _, commit := range commits {
		d := push("ada/web", "main", commit)
		g.send(d)
		await(t, "the deploy to end", func() bool { return strings.Contains(s.must("log", "--delivery", d.id), "deployed") })
	}
	await(t, "GitHub to be asked", func() bool { return len(hub.Requests()) > 0 })
	if n := len(hub.Statuses()); n > 0 {
		t.Fatalf("%d statuses were taken by a GitHub that is silent", n)
	}
	p.kill()
	hub.Heal()
	s.start("serve").says(`msg=working`)
	for _, commit := range commits {
		await(t, "GitHub to be told", func() bool { return last(states(hub, commit)) == "success" })
		if got := states(hub, commit); !slices.Equal(got, []string{"success"}) {
			t.Errorf("%s was told as %v, want its last state alone", commit, got)
		}
	}
}

func TestReporter_KilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 8)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{slug: "web", repository: "ada/web", remote: r, steps: []step{
		script("build", `case $DURHACK_COMMIT in *[0-7]) exit 3;; esac`),
	}})
	hub := s.newHub()
	for _, f := range []githubtest.Failure{{Status: 500, Times: 3}, {Lost: true, Times: 3}, githubtest.SecondaryLimit(1)} {
		f.Times = max(1, f.Times)
		f.Method = "POST"
		hub.Fail(f)
	}
	p := s.start("serve")
	p.says(`msg=working`)
	g := s.github(p.addr())
	var pushes []delivery
	for i, commit := range commits {
		d := push("ada/web", "main", commit)
		pushes = append(pushes, d)
		g.send(d)
		asked := len(hub.Requests())
		await(t, "GitHub to be asked again", func() bool { return len(hub.Requests()) > asked+i%3 || last(states(hub, commit)) != "" })
		p.kill()
		p = s.start("serve")
		g.addr.Store(p.addr())
	}
	for i, d := range pushes {
		var story string
		await(t, "the run to end", func() bool {
			story = s.must("log", "--delivery", d.id)
			return strings.Contains(story, "deployed") || strings.Contains(story, " failed ") || strings.Contains(story, "voided")
		})
		await(t, "GitHub to be told of its end", func() bool {
			state := last(states(hub, commits[i]))
			return state != "" && state != "pending" && (state == "success") == strings.Contains(story, "deployed")
		})
	}
	await(t, "all to be told", func() bool {
		return strings.Contains(s.must("status", "--verbose"), "reporter: 0 owed, 0 refused, 0 given up, 0 events behind")
	})
	for _, commit := range commits {
		got := slices.Compact(states(hub, commit))
		if i := slices.IndexFunc(got, func(s string) bool { return s != "pending" }); i < 0 || i != len(got)-1 {
			t.Errorf("%s was told as %v: an older state after a newer one", commit, got)
		}
	}
	live := 0
	for _, d := range hub.Deployments() {
		switch n := len(d.Statuses); {
		case n == 0 || d.Statuses[n-1].State == "in_progress":
			t.Errorf("the deployment of %s has no end: %+v", d.SHA, d.Statuses)
		case d.Statuses[n-1].State == "success":
			live++
		}
	}
	if live > 1 {
		t.Errorf("%d deployments are live", live)
	}
}

func TestReporter_DoctorNamesWhatTheTokenLacks(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commits := r.pages("main", 2)
	s := newSite(t, pgtest.MigratedDSN(t), deployment{slug: "web", repository: "ada/web", remote: r})
	hub := s.newHub()
	p := s.start("serve")
	p.says(`msg=working`)
	g := s.github(p.addr())
	refuses := func(commit, what string) {
		t.Helper()
		g.send(push("ada/web", "main", commit))
		await(t, "doctor to name it", func() bool {
			out := s.command("doctor").out
			return strings.Contains(out, "refused for good") && strings.Count(out, what) >= 2 // asked now, and then
		})
		for _, scope := range []string{"commit statuses of ada/web", "deployments of ada/web"} {
			told := 0
			for line := range strings.Lines(p.output()) {
				if strings.Contains(line, what) && strings.Contains(line, fmt.Sprintf("scope=%q", scope)) {
					told++
				}
			}
			if told > 1 {
				t.Errorf("the daemon has told of the %s %d times:\n%s", scope, told, p.output())
			}
		}
	}
	hub.Grant(githubtest.Token, map[string]string{"deployments": "write", "metadata": "read"})
	refuses(commits[0], `it needs the permission "Commit statuses" (read and write)`)
	hub.Revoke()
	refuses(commits[1], "the credentials are wrong, expired or revoked")
	// Without another push: the newest that was refused is tried again, here at the next start.
	hub.Grant(githubtest.Token, nil)
	p.kill()
	s.open()
	if _, err := s.reader.pool.Exec(t.Context(), "update outbox set next_at = clock_timestamp() where state = 'refused'"); err != nil {
		t.Fatal(err)
	}
	s.start("serve").says(`msg=working`)
	for _, commit := range commits {
		await(t, "GitHub to be told", func() bool { return last(states(hub, commit)) == "success" })
	}
	await(t, "doctor to be content", func() bool { return !strings.Contains(s.command("doctor").out, "refused for good") })
}

func TestReporter_TwoInstancesOnOneLogTellOfTheirOwn(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	commit := r.pages("main", 1)[0]
	dsn := pgtest.MigratedDSN(t)
	one := newSite(t, dsn, deployment{slug: "web", repository: "ada/web", remote: r})
	other := newSite(t, dsn, deployment{slug: "docs", repository: "ada/web", remote: r, steps: []step{script("build", "exit 3")}})
	other.instance = "other"
	hubs := map[*site]*githubtest.Server{one: one.newHub(), other: other.newHub()}
	d := push("ada/web", "main", commit) // GitHub sends the same GUID to both
	for s := range hubs {
		p := s.start("serve")
		p.says(`msg=working`)
		s.github(p.addr()).send(d)
	}
	for s, want := range map[*site]string{one: "success", other: "failure"} {
		await(t, "GitHub to be told", func() bool { return last(states(hubs[s], commit)) == want })
		await(t, "all to be told", func() bool {
			return strings.Contains(s.must("status", "--verbose"), "reporter: 0 owed, 0 refused, 0 given up, 0 events behind")
		})
		for _, st := range hubs[s].Statuses() {
			if st.Context != "durhack-deployer/"+s.deployments[0].slug {
				t.Errorf("%s told of %s", s.instance, st.Context)
			}
		}
	}
}
