package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// Everything that a payload or a repository can say is data: no name of a
// branch runs a program, no text breaks a line of what people read.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	trap := tempDir(t)
	canary := filepath.Join(trap, "canary")
	evil := filepath.Join(trap, "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+canary+"\nexec git-upload-pack \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A commit's message cannot hold the NUL.
	const nasty = "red \x1b[31m\x1b]0;title\x07 \u202e back\r\nX-Injected: 1\n\x00<script>alert(1)</script> \u0085 \x9b2J"
	// Branches that git takes, so that they are really deployed.
	branches := map[string]string{
		"option": "--upload-pack=" + evil,
		"exec":   "--upload-pack=x",
		"shell":  "x;$(touch${IFS}" + canary + ")",
		"tick":   "`touch${IFS}" + canary + "`|touch${IFS}" + canary + "&",
		"markup": "<script>alert('1')</script>",
	}
	r := newRepo(t)
	var deployments []deployment
	commits := map[string]string{}
	for slug, branch := range branches {
		message := strings.ReplaceAll(nasty, "\x00", "")
		commits[slug] = r.push(branch, commit{message, map[string]string{"deploy.sh": "#!/bin/sh\ngit log -1 --format=%B\nprintf '%s\\n' \"$DURHACK_BRANCH\"\n"}})[0]
		deployments = append(deployments, deployment{
			slug: slug, repository: "ada/web", branch: branch, remote: r,
			steps: []step{{name: "deploy", run: []string{"./deploy.sh", "$(touch " + canary + ")"}}},
		})
	}
	failing := r.push("failing", commit{strings.ReplaceAll(nasty, "\x00", ""), map[string]string{"deploy.sh": "#!/bin/sh\ngit log -1 --format=%B\nprintf '\\033[2J\\r\\0\\n'\nexit 1\n"}})[0]
	deployments = append(deployments, deployment{
		slug: "failing", repository: "ada/web", branch: "failing", remote: r, steps: []step{{name: "deploy", run: []string{"./deploy.sh"}}},
	})
	s := newSite(t, pgtest.MigratedDSN(t), deployments...)
	p := s.start("serve")
	g := s.github(p.addr())
	var ids []string
	send := func(d delivery) string {
		g.send(d)
		ids = append(ids, d.id)
		return d.id
	}
	payload := func(ref, repository, commit string) delivery {
		return pushOf(newID(), map[string]any{
			"ref": ref, "after": commit, "deleted": false, "repository": map[string]any{"full_name": repository},
			"sender": map[string]any{"login": nasty}, "pusher": map[string]any{"name": nasty},
			"head_commit": map[string]any{"id": commit, "message": nasty, "author": map[string]any{"name": nasty}},
		})
	}
	live := map[string]string{}
	for slug, branch := range branches {
		live[slug] = send(payload("refs/heads/"+branch, "ada/web", commits[slug]))
	}
	failed := send(payload("refs/heads/failing", "ada/web", failing))
	zero := strings.Repeat("0", 40)
	for _, d := range []delivery{
		payload("refs/heads/"+nasty, "ada/web", failing),
		payload("refs/heads/main", "ada/"+nasty, failing),
		payload("refs/tags/"+nasty, "ada/web", failing),
		payload("--upload-pack=touch "+canary, "ada/web", failing),
		payload("refs/heads/failing", "ada/web", "--upload-pack=touch "+canary),
		payload("refs/heads/failing", "ada/web", "$(touch "+canary+")"),
		payload("refs/heads/failing", "ada/web", zero),
		{newID(), "no_such_event", []byte("{}")},
		{newID(), "push", []byte("\xff\xfe\x1b[2J")},
	} {
		send(d)
	}
	if status, err := g.post(delivery{newID(), "<script>$(touch " + canary + ")", []byte("{}")}); err != nil || status != 400 {
		t.Errorf("an event that is no name: status %d, %v", status, err)
	}
	all := s.ends(ids...)
	for slug, id := range live {
		if events := all.of(id); events.types() != "received forwarded started deployed" {
			t.Errorf("branch %q: %s", branches[slug], events)
		}
		s.live(slug, commits[slug])
	}
	if got := all.of(failed).types(); got != "received forwarded started failed" {
		t.Errorf("the failing one: %s", all.of(failed))
	}
	if f := data[eventlog.Failed](s, all.of(failed)[3]); !strings.Contains(f.OutputTail, "<script>") {
		t.Errorf("the tail has not what was printed: %q", f.OutputTail)
	}

	clean := func(what, text string) string {
		t.Helper()
		for i, line := range strings.Split(text, "\n") {
			for _, c := range line {
				if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == '\u202e' {
					t.Errorf("%s: line %d has %q: %q", what, i+1, c, line)
					break
				}
			}
		}
		return text
	}
	if n := strings.Count(clean("log", s.must("log")), "\n"); n != len(all) {
		t.Errorf("log prints %d lines for %d events", n, len(all))
	}
	lines := strings.Split(strings.TrimSuffix(clean("log --json", s.must("log", "--json")), "\n"), "\n")
	if len(lines) != len(all) {
		t.Errorf("log --json prints %d lines for %d events", len(lines), len(all))
	}
	for _, line := range lines {
		var e eventlog.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("log --json: %v: %s", err, line)
		}
	}
	for line := range strings.Lines(clean("status", s.must("status", "--wide"))) {
		first, _, _ := strings.Cut(strings.Fields(line)[0], ":")
		if first != "DEPLOYMENT" && !slices.ContainsFunc(deployments, func(d deployment) bool { return d.slug == first }) {
			t.Errorf("a line of status is of no deployment: %q", line)
		}
	}
	clean("status --json", s.must("status", "--json"))
	for _, id := range ids {
		clean("why "+id, s.must("why", id))
		clean("why --json "+id, s.must("why", "--json", id))
	}
	clean("plan", s.must("plan", "option"))
	clean("queue list", s.must("queue", "list"))
	clean("the daemon's own log", p.output())
	for i, line := range strings.Split(strings.TrimSuffix(p.output(), "\n"), "\n") {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("line %d of the daemon's log begins otherwise: %q", i+1, line)
		}
	}
	s.accounted(ids...)
	p.stop()
	if _, err := os.Lstat(canary); !os.IsNotExist(err) {
		t.Errorf("a name was executed: the canary is there (%v)", err)
	}
	if found, err := filepath.Glob(filepath.Join(s.dir, "*", "canary")); err != nil || len(found) > 0 {
		t.Errorf("%v, %q", err, found)
	}
}
