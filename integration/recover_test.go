package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// Three pushes came while the listener was down: all are accounted for, and the last is live.
func TestRecover_PushesThatGitHubCouldNotDeliver(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	c := r.pages("main", 1)
	s := newSite(t, pgtest.DSN(t), deployment{slug: "web", repository: "ada/web", remote: r})
	hub := &githubtest.Server{}
	if err := hub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	token := filepath.Join(s.dir, "token")
	if err := os.WriteFile(token, []byte(githubtest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.extra = fmt.Sprintf("[github]\napi_url = %q\ntoken_file = %q\n", hub.URL(), token)
	s.configure()
	p := s.start("serve")
	hook := hub.AddHook(githubtest.Hook{Of: "repos/ada/web", Secret: s.secret})
	aim := func() { hub.Aim(hook, "http://"+p.addr()+"/github-webhook") }
	sent := func(from, to string) string {
		id, _ := hub.Deliver(hook, "push", githubtest.PushBody("ada/web", "main", from, to))
		return id
	}
	aim()
	first := sent(strings.Repeat("0", 40), c[0])
	s.ends(first)
	p.stop()
	c = append(c, r.pages("main", 3)...)
	ids := []string{sent(c[0], c[1]), sent(c[1], c[2]), sent(c[2], c[3])}
	hub.Deliver(hook, "ping", []byte(`{}`))

	p = s.start("serve")
	aim()
	all := s.until("all three ended", func(all story) bool {
		for _, id := range ids {
			if !all.of(id).ended() {
				return false
			}
		}
		return true
	})
	var order []string
	for _, e := range all.type_(eventlog.TypeReceived) {
		order = append(order, e.DeliveryID)
		if e.DeliveryID != first && data[eventlog.Received](s, e).Source != eventlog.SourceRecovery {
			t.Errorf("it is not said of %s that it was recovered", e.DeliveryID)
		}
	}
	if want := append([]string{first}, ids...); fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("received in the order %q, want %q", order, want)
	}
	s.live("web", c[3])
	if why := s.must("why", ids[2]); !strings.Contains(why, "GitHub could not deliver it, and was asked to send it again") {
		t.Errorf("why says:\n%s", why)
	}
	if out := s.must("recover"); !strings.Contains(out, "nothing was missed") {
		t.Errorf("recover says:\n%s", out)
	}
	// Once more, by hand: the daemon has looked already.
	hub.Aim(hook, "http://127.0.0.1:1/")
	c = append(c, r.pages("main", 1)...)
	byHand := sent(c[3], c[4])
	aim()
	if out := s.must("recover", "--dry-run"); strings.Count(out, "would be") != 1 || !strings.Contains(out, byHand[:8]) || !strings.Contains(out, c[4][:12]) {
		t.Errorf("recover --dry-run shows a tip that GitHub could not deliver as more than one row:\n%s", out)
	}
	if out := s.must("recover"); !strings.Contains(out, "asked again") || strings.Contains(out, "queued") {
		t.Errorf("recover says:\n%s", out)
	}
	s.ends(byHand)
	if why := s.must("why", byHand); !strings.Contains(why, "GitHub could not deliver it, and was asked to send it again") {
		t.Errorf("why says:\n%s", why)
	}
	s.live("web", c[4])
	s.accounted(append(ids, first, byHand)...)
	for _, text := range []string{p.output(), s.must("log", "--json"), s.must("config", "show")} {
		if strings.Contains(text, githubtest.Token) {
			t.Errorf("the token is shown:\n%s", text)
		}
	}
	p.stop()
}

// No webhook comes at all; afterwards GitHub does deliver it.
func TestRecover_TipThatIsFoundAtTheRemote(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	c := r.pages("main", 1)
	s := newSite(t, pgtest.DSN(t),
		deployment{slug: "web", repository: "ada/web", remote: r},
		deployment{slug: "never", repository: "ada/web", remote: r},
		deployment{slug: "gone", repository: "ada/web", remote: r, branch: "nowhere"})
	p := s.start("serve")
	s.must("deploy", "web", "--wait")
	p.says("the remote has no such branch")
	if out := s.command("doctor").out; strings.Count(out, "nowhere") != 1 {
		t.Errorf("doctor tells of a branch that never existed not once:\n%s", out)
	}
	c = append(c, r.pages("main", 2)...)
	if out := s.must("recover", "--dry-run"); !strings.Contains(out, "would be queued") || !strings.Contains(out, c[2][:12]) || strings.Contains(out, "never") {
		t.Errorf("recover --dry-run says:\n%s", out)
	}
	if out := s.must("recover"); !strings.Contains(out, "queued") {
		t.Errorf("recover says:\n%s", out)
	}
	all := s.until("the tip is live", func(all story) bool { return len(all.type_(eventlog.TypeDeployed)) == 2 })
	s.live("web", c[2])
	found := all.type_(eventlog.TypeReceived)[1]
	if why := s.must("why", found.DeliveryID); !strings.Contains(why, "GitHub did not deliver this push; the branch's tip was found by asking the remote") {
		t.Errorf("why says:\n%s", why)
	}
	if out := s.must("recover"); !strings.Contains(out, "nothing was missed") {
		t.Errorf("recover says:\n%s", out)
	}
	g := s.github(p.addr())
	late := pushOf(newID(), map[string]any{
		"ref": "refs/heads/main", "before": c[1], "after": c[2], "forced": false, "repository": map[string]any{"full_name": "ada/web"},
	})
	g.send(late)
	all = s.ends(late.id)
	if got := all.of(late.id).at("web"); len(got) != 0 {
		t.Errorf("the late delivery at web: %s", got)
	}
	if got := all.of(late.id).types(); !strings.HasPrefix(got, "received forwarded") { // to never, which a push does deploy
		t.Errorf("the late delivery: %s", got)
	}
	s.accounted()
	p.stop()
}
