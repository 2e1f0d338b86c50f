package dashboard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// page is a page that was parsed.
type page struct {
	t    *testing.T
	path string
	root *html.Node
}

// parse checks that every element ends where it should, and parses.
func parse(t *testing.T, path, text string) *page {
	t.Helper()
	void := []string{"meta", "link", "input", "br"}
	var open []string
	for z := html.NewTokenizer(strings.NewReader(text)); z.Next() != html.ErrorToken; {
		token := z.Token()
		switch {
		case token.Type == html.StartTagToken && !slices.Contains(void, token.Data):
			open = append(open, token.Data)
		case token.Type == html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("%s: </%s> ends %v", path, token.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Fatalf("%s: %v are not ended", path, open)
	}
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return &page{t, path, root}
}

func (p *page) all(match func(*html.Node) bool) (found []*html.Node) {
	for n := range p.root.Descendants() {
		if n.Type == html.ElementNode && match(n) {
			found = append(found, n)
		}
	}
	return found
}

func (p *page) named(a atom.Atom) []*html.Node {
	return p.all(func(n *html.Node) bool { return n.DataAtom == a })
}

func attribute(n *html.Node, key string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val, true
		}
	}
	return "", false
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// check looks at what each page owes those who look at it.
func (p *page) check() {
	t := p.t
	t.Helper()
	for a, want := range map[atom.Atom]int{atom.H1: 1, atom.Main: 1, atom.Title: 1, atom.Header: 1, atom.Footer: 1} {
		if n := len(p.all(func(n *html.Node) bool { return n.DataAtom == a && n.Namespace == "" })); n != want {
			t.Errorf("%s has %d %s, not %d", p.path, n, a, want)
		}
	}
	if got := text(p.named(atom.H1)[0]); got == "" {
		t.Errorf("%s has an empty headline", p.path)
	}
	ids := map[string]bool{}
	labelled := map[string]bool{}
	for _, n := range p.named(atom.Label) {
		if id, ok := attribute(n, "for"); ok {
			labelled[id] = true
		}
	}
	for _, n := range p.all(func(*html.Node) bool { return true }) {
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("%s has code or style in a %s: %s=%q", p.path, n.Data, a.Key, a.Val)
			}
		}
		if id, ok := attribute(n, "id"); ok && ids[id] {
			t.Errorf("%s has two elements with the ID %q", p.path, id)
		} else if ok {
			ids[id] = true
		}
		switch n.DataAtom {
		case atom.Style, atom.Iframe, atom.Object, atom.Img:
			t.Errorf("%s has a %s", p.path, n.Data)
		case atom.Script:
			if src, _ := attribute(n, "src"); n.FirstChild != nil || !strings.HasPrefix(src, "/assets/") {
				t.Errorf("%s has a script that is not ours", p.path)
			}
		case atom.Input, atom.Select, atom.Progress:
			kind, _ := attribute(n, "type")
			id, _ := attribute(n, "id")
			within := false
			for up := n.Parent; up != nil; up = up.Parent {
				within = within || up.DataAtom == atom.Label
			}
			if kind != "hidden" && !within && !labelled[id] {
				t.Errorf("%s has a %s without a label", p.path, n.Data)
			}
		case atom.Svg:
			_, label := attribute(n, "aria-label")
			_, hidden := attribute(n, "aria-hidden")
			if label == hidden {
				t.Errorf("%s has a drawing that is neither told nor hidden", p.path)
			}
		case atom.A:
			if text(n) == "" {
				t.Errorf("%s has a link without words: %v", p.path, n.Attr)
			}
		case atom.Nav, atom.Aside:
			if label, _ := attribute(n, "aria-label"); label == "" {
				t.Errorf("%s has a %s without a name", p.path, n.Data)
			}
		}
	}
	for _, n := range p.named(atom.A) {
		if href, _ := attribute(n, "href"); strings.HasPrefix(href, "#") && !ids[href[1:]] {
			t.Errorf("%s has a link to %s, which is not there", p.path, href)
		}
	}
	if script := text(p.root); strings.ContainsAny(script, "\u202e\x1b") {
		t.Errorf("%s has letters that turn others around, or drive a terminal", p.path)
	}
}

// links are the pages of ours that it leads to.
func (p *page) links() (paths []string) {
	for _, n := range p.all(func(n *html.Node) bool {
		return n.DataAtom == atom.A || n.DataAtom == atom.Link || n.DataAtom == atom.Script
	}) {
		href, _ := attribute(n, "href")
		if src, ok := attribute(n, "src"); ok {
			href = src
		}
		if u, err := url.Parse(href); err == nil && u.Host == "" && u.Path != "" {
			u.Fragment = ""
			paths = append(paths, u.String())
		} else if err == nil && u.Host != "" && u.Scheme != "https" {
			p.t.Errorf("%s leads to %s", p.path, href)
		}
	}
	return paths
}

func TestPages_AreWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill()
	seen := map[string]bool{}
	next := []string{"/", "/log?type=deployed&type=failed&deployment=web", "/log?after=3", "/log?before=30", "/at?time=2026-01-31T15:04", "/at?from=1700000000000&minutes=30", "/log?delivery=web-bad&since=2026-01-31", "/log?since=2w&until=now", "/at?time=yesterday"}
	for len(next) > 0 {
		path := next[0]
		next = next[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		answer := w.get(path, http.StatusOK)
		if policy := answer.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'self'; script-src 'self';") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s has the policy %q", path, policy)
		}
		if kind := answer.Header().Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
			continue
		}
		p := parse(t, path, answer.Body.String())
		p.check()
		next = append(next, p.links()...)
	}
	for _, path := range []string{"/", "/deployments/web", "/deployments/far?instance=www2", "/deliveries/web-bad", "/deliveries/api-2", "/deliveries/far-1?instance=www2", "/log", "/at", "/proof", "/deliveries/web-bad/log?attempt=2&deployment=web"} {
		if !seen[path] {
			t.Errorf("nothing leads to %s", path)
		}
	}
}

// has looks for texts in what a page says.
func (w *world) has(path string, texts ...string) {
	w.t.Helper()
	p := parse(w.t, path, w.get(path, http.StatusOK).Body.String())
	said := text(p.named(atom.Main)[0])
	for _, want := range texts {
		if !strings.Contains(said, want) {
			w.t.Errorf("%s does not say %q:\n%s", path, want, said)
		}
	}
}

func TestPages_SayWhatIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill()
	w.has("/", "Of 5 deployments, 1 has failed and 1 is running", "At least 23 deploys in the last 7 days, at least 2 failed",
		short(hash("web-24"))+" Change 24", "failed at step build", "Going live: "+short(hash("api-2")), "in place of "+short(hash("api-1")),
		"Step 2 of 3, checkout", "Pinned to "+short(hash("docs-1"))+" by ann", "Frozen by ann", "1 waits", "No push to main of octo/idle was deployed yet", "www2", "usually")
	w.has("/deployments/web", "web: "+short(hash("web-bad"))+" failed; live is "+short(hash("web-24")), "written by Zoë", "it failed at step build", "logo.png", "+3 −1", "and 2 more",
		"25 deployed", "Older", "The last 27 runs")
	w.has("/deployments/docs", "pinned", "voided")
	w.has("/deployments/idle", "idle: never deployed", "durhack-deployer deploy idle")
	w.has("/deployments/far?instance=www2", "it is one of www2", "These are for the host of www2")
	w.has("/deliveries/web-bad", "Failed at step build of web", "Attempts at web", "Run log, attempt 2", "The whole text", "replayed", "octo/web")
	w.has("/deliveries/api-2", "Running at api", "Step 2 of 3, checkout", "it goes on")
	w.has("/deliveries/api-3", "Waiting at api")
	w.has("/deliveries/ping-1", "Not deployed", "a ping deploys nothing")
	w.has("/deliveries/far-1", "Deployed to far", "The run log is on elsewhere: /there/far.log")
	w.has("/deliveries/pin-1", "Pinned")
	w.has("/log?type=voided", "2 events that match", "ping")
	w.has("/log?delivery=api-2", "3 events that match", "in place of")
	w.has("/at", "4 deployments were live", "frozen by ann", "Going live")
	w.has("/at?time=2020-01-01T00:00", "Nothing was recorded yet on 1 January 2020")
	w.has("/proof", "Nothing is signed yet", "Nobody has verified the log from this host yet")
	w.keep(answer.Verified{At: time.Now().Add(-time.Hour), Events: 12})
	w.has("/proof?again", "Nothing is signed yet", "no breach among 12 events, 1 h ago")
	w.keep(answer.Verified{At: time.Now(), Events: 12, Breaches: []string{hostile}})
	w.has("/proof?more", "The last verify found 1 breach", "breaches among 12 events")
}

func TestPages_OfAnotherInstanceOfThisHostSayWhereTheRunLogIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	received := of("near-1", "", 1, eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "octo/near", Commit: hash("near"), ReceivedAt: time.Now(), PayloadDigest: hash("n") + hash("n")[:24], Source: eventlog.SourceCLI, Entry: "01J00000000000000000000003"})
	for _, tr := range []eventlog.Transition{
		received,
		of("near-1", "near", 1, eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: hash("near"), Rule: "r", ConfigDigest: hash("c")}}),
		of("near-1", "near", 1, eventlog.Started{Commit: hash("near"), Host: host, Plan: []string{"fetch"}, RunLog: "/other/near.log"}),
		of("near-1", "near", 1, eventlog.Deployed{Commit: hash("near"), Steps: twoSteps, DurationMS: 3800}),
	} {
		tr.Instance = "www2"
		w.append(nil, tr)
	}
	w.project()
	w.has("/deliveries/near-1", "The run log is on "+host+": /other/near.log")
}

// Text from right to left would draw the numbers that follow it before it.
func TestPages_KeepTheOrderOfWhatStandsBesideOthersText(t *testing.T) {
	t.Parallel()
	const word = "שלום"
	isolated := regexp.MustCompile(`<bdi>[^<]*</bdi>`)
	w := newWorld(t)
	deployed := of("gone-1", "gone", 1, eventlog.Deployed{Commit: hash("gone-1"), Steps: twoSteps, DurationMS: 3800})
	w.receive("gone-1", "gone", word)
	for _, tr := range []eventlog.Transition{of("gone-1", "gone", 1, eventlog.Started{Commit: hash("gone-1"), Host: "elsewhere", Plan: []string{"fetch"}}), deployed} {
		tr.Actor = word
		w.append(nil, tr)
	}
	for _, tr := range []eventlog.Transition{of("pin-9", "gone", 1, eventlog.Pinned{Commit: hash("gone-1"), Reason: word}), of("freeze-9", "gone", 1, eventlog.Frozen{Reason: word})} {
		tr.Actor = word
		w.append(nil, tr)
	}
	w.project()
	for _, path := range []string{"/", "/deployments/gone"} {
		_, main, _ := strings.Cut(w.get(path, http.StatusOK).Body.String(), "<main")
		if !strings.Contains(main, "<bdi>"+word+"</bdi>") {
			t.Errorf("%s does not show the text", path)
		}
		for line := range strings.Lines(isolated.ReplaceAllString(main, "")) {
			if strings.Contains(line, word) {
				t.Errorf("%s has it beside other text: %s", path, line)
			}
		}
	}
	// It is not configured, so that these are refused.
	if page := w.get("/deployments/gone", http.StatusOK).Body.String(); strings.Contains(page, "deploy gone") || strings.Contains(page, "why --deployment gone") {
		t.Error("the page gives commands that are refused")
	}
}

func TestPages_RefuseWhatIsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill()
	for path, code := range map[string]int{
		"/nothing": 404, "/deployments/nobody": 404, "/deployments/main": 400, "/deployments/a%2fb": 400, "/deployments/..%2f..": 400, "/deliveries/nosuch": 404,
		"/deliveries/%3Cscript%3E": 400, "/log?type=nonsense": 400, "/log?before=x": 400, "/log?after=-1": 400, "/log?since=yesterdayish": 400, "/log?deployment=a/b": 400,
		"/log?delivery=a/b": 400, "/at?time=soon": 400, "/at?from=1&minutes=99999999": 400, "/deployments/web?before=1": 400, "/deployments/web?instance=../x": 400,
		"/log?instance=a/b": 400,
	} {
		parse(t, path, w.get(path, code).Body.String()).check()
	}
	for path, want := range map[string]string{
		"/log?deployment=nope":                             "There is no deployment nope The deployments are: api docs idle off web ",
		"/deployments/nope":                                "The deployments are: api docs idle off web ",
		"/log?delivery=unknown":                            "The log has no delivery unknown The log lists the deliveries",
		"/log?delivery=far-1&instance=www1":                "The log has no delivery far-1 ",
		"/assets/nothing.css":                              "There is no such file",
		"/deliveries/web-bad/log?deployment=web&attempt=9": "There is no such run log here It was removed when it was old",
		"/log?instance=nope":                               "The log has no instance nope Its instances are: www1, www2.",
	} {
		p := parse(t, path, w.get(path, http.StatusNotFound).Body.String())
		p.check()
		if said := text(p.root); !strings.Contains(said, want) {
			t.Errorf("%s does not say %q:\n%s", path, want, said)
		}
	}
	if said := text(parse(t, "type", w.get("/log?type=%3Cb%3E", http.StatusBadRequest).Body.String()).root); !strings.Contains(said, "The types are: ") || !strings.Contains(said, "canceled") {
		t.Errorf("of an unknown type: %s", said)
	}
	w.has("/log?deployment=idle", "No event matches") // it is configured
	w.has("/log?deployment=far", "that match")        // of another instance
	for path, code := range map[string]int{
		"/deliveries/web-bad/log?deployment=web&attempt=9": 404, "/deliveries/web-bad/log?deployment=..&attempt=1": 400, "/deliveries/web-bad/log": 400, "/deliveries/x/tail": 400,
		"/assets/nothing.css": 404, "/deliveries/web-bad/log?deployment=main&attempt=1": 400,
	} {
		w.get(path, code)
	}
	for path, to := range map[string]string{"/deployments": "/", "/deliveries/": "/deliveries", "/deliveries": "/log?type=received", "/log/?type=voided": "/log?type=voided", "/deployments/web/": "/deployments/web"} {
		if got := w.get(path, http.StatusSeeOther).Header().Get("Location"); got != to {
			t.Errorf("%s leads to %q", path, got)
		}
	}
	if kind := w.get("/favicon.ico", http.StatusOK).Header().Get("Content-Type"); kind != "image/svg+xml" {
		t.Errorf("the icon is %s", kind)
	}
	for _, id := range []string{"twin-00001", "twin-00002"} {
		w.receive(id, "idle", "x")
	}
	for _, path := range []string{"/deliveries/twin-0", "/log?delivery=twin-0"} {
		p := parse(t, path, w.get(path, http.StatusNotFound).Body.String())
		if !slices.Contains(p.links(), "/deliveries/twin-00002") {
			t.Errorf("%s does not lead to what may be meant: %s", path, text(p.root))
		}
	}
	// The beginning of an ID leads to the whole.
	if to := w.get("/deliveries/ping-", http.StatusNotFound); to.Header().Get("Location") != "" {
		t.Error("five characters are taken for a beginning")
	}
	w.receive("0123456789abcdef", "idle", "x")
	if to := w.get("/deliveries/012345678", http.StatusSeeOther).Header().Get("Location"); to != "/deliveries/0123456789abcdef" {
		t.Errorf("a beginning leads to %q", to)
	}
}

// What holds the deployment, or is going on at it, is told of one that was never live, too.
func TestPages_OfWhatWasNeverLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(nil, of("freeze-1", "", 1, eventlog.Frozen{Reason: "all stop"}))
	w.project()
	for _, path := range []string{"/", "/deployments/idle"} {
		w.has(path, "Frozen by ann", "It is frozen: the next one waits until it is thawed.")
	}
	w.receive("first", "idle", "The first")
	w.project()
	w.has("/deployments/idle", "the first push waits", "Nothing was live here before.", "it waits, and idle is frozen")
	w.has("/deliveries/first", "Waiting at idle", "It waits for idle, which is frozen since", "all stop.")
	w.append(nil, of("thaw-1", "", 1, eventlog.Thawed{}))
	w.start("first", "idle", 1, "")
	w.project()
	if said := text(parse(t, "idle", w.get("/deployments/idle", http.StatusOK).Body.String()).root); strings.Contains(said, "was deployed yet") || !strings.Contains(said, "is going live") {
		t.Errorf("while the first one runs: %s", said)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\nb\tc\u2028d\u0085e": "a b c d e", "1\u202f000\u00a0€": "1\u202f000\u00a0€", "a\u202eb\x1bc\x00": "a\ufffdb\ufffdc\ufffd", "abcdefghijk": "abcdefghi…",
	} {
		if got := plain(in, 10); got != want {
			t.Errorf("%q is shown as %q, not %q", in, got, want)
		}
	}
}

// The scale of a chart ends at a round time that no run is longer than.
func TestChart_ScaleIsRound(t *testing.T) {
	t.Parallel()
	for longest, want := range map[time.Duration]string{
		0: "10 ms, 5 ms, 0", 33 * time.Millisecond: "50 ms, 25 ms, 0", 700 * time.Millisecond: "1 s, 500 ms, 0", 1001 * time.Millisecond: "2 s, 1 s, 0", 9 * time.Second: "10 s, 5 s, 0",
		48 * time.Second: "1 min, 30 s, 0", 61 * time.Second: "2 min, 1 min, 0", 21 * time.Minute: "30 min, 15 min, 0", 31 * time.Minute: "1 h, 30 min, 0", 90 * time.Minute: "2 h, 1 h, 0", 50 * time.Hour: "64 h, 32 h, 0",
	} {
		c := newChart([]run{{Class: "ok", Took: longest}}, time.Unix(0, 0), time.Unix(60, 0))
		if got := strings.Join(c.Scale, ", "); got != want {
			t.Errorf("%s is drawn on a scale of %s, not %s", longest, got, want)
		}
		if b := c.Bars[0]; b.Y < 0 || b.Y+b.H != chartHeight || b.X < 0 || b.X+b.W > chartWidth {
			t.Errorf("%s is drawn as %+v", longest, b)
		}
		if c.First != "1 Jan 1970, 00:00" || c.Last != "00:01 UTC" {
			t.Errorf("the chart is of %q to %q", c.First, c.Last)
		}
	}
	crowd := newChart(make([]run, chartRuns), time.Unix(0, 0), time.Unix(1e6, 0))
	for i, b := range crowd.Bars {
		if i > 0 && b.X <= crowd.Bars[i-1].X+crowd.Bars[i-1].W || b.X < 0 || b.X+b.W > chartWidth {
			t.Errorf("bar %d is at %+v", i, b)
		}
	}
	if crowd.First != "1 Jan 1970" || crowd.Last != "12 Jan 1970" {
		t.Errorf("the chart is of %q to %q", crowd.First, crowd.Last)
	}
}

// What was live before is found however many runs there were, a page of them at a time.
func TestBefore_AmongManyRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := func(id, commit string) []eventlog.Transition {
		digest := hash(id) + hash(id)[:24]
		return []eventlog.Transition{
			of(id, "", 1, eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "octo/web", Commit: commit, ReceivedAt: time.Now(), PayloadDigest: digest, Source: eventlog.SourceGitHub, Entry: "01J" + strings.ToUpper(digest[:23])}),
			of(id, "web", 1, eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commit, Rule: "r", ConfigDigest: hash("c")}}),
			of(id, "web", 1, eventlog.Started{Commit: commit, Host: "h", Plan: []string{"fetch"}}),
			of(id, "web", 1, eventlog.Deployed{Commit: commit, Steps: twoSteps, DurationMS: 3800}),
		}
	}
	before := func() string {
		w.project()
		models := projections.New(w.pool, w.log, slog.New(slog.DiscardHandler))
		known, err := models.Deployments(t.Context(), "www1")
		if err != nil {
			t.Fatal(err)
		}
		commit, err := act.Before(t.Context(), w.log, models, "www1", "web", *known[0].Live)
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	const runs = 230
	var all []eventlog.Transition
	for i := range runs {
		all = append(all, run(fmt.Sprintf("run-%03d", i), hash(fmt.Sprintf("run-%03d", i)))...)
	}
	w.append(nil, all...)
	if got := before(); got != hash("run-228") {
		t.Errorf("before the newest it was %s", got)
	}
	w.append(nil, append([]eventlog.Transition{of("back", "web", 1, eventlog.Pinned{Commit: hash("run-005"), Reason: "x"})}, run("back", hash("run-005"))...)...)
	if got := before(); got != hash("run-004") {
		t.Errorf("before what was gone back to it was %s", got)
	}
}

func TestTicked(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"run `a <b>` now": "run <code>a &lt;b&gt;</code> now", "`x`": "<code>x</code>", "one ` alone": "one ` alone", "`a` and `b": "<code>a</code> and `b", "": "",
	} {
		if got := string(ticked(in)); got != want {
			t.Errorf("%q is shown as %q, not %q", in, got, want)
		}
	}
}

func TestPages_SayWhatToDoWhereThereIsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.has("/", "4 deployments, and nothing deployed yet", "No push to main of octo/web was deployed yet")
	w.has("/log", "The log is empty")
	w.has("/at", "Nothing was recorded yet")
	w.has("/proof", "The log is empty, so there is nothing to prove yet")
	w.deploy("web-1", "web", "x", "")
	w.has("/", "The read models are being built for the first time")
	clear(w.cfg.Deployments)
	w.project()
	w.has("/deployments/web", "not in the configuration")

	empty := newWorld(t)
	clear(empty.cfg.Deployments)
	empty.has("/", "No deployments yet", "https://deploy.example.com/github-webhook")
	empty.away = errors.New("waiting for the database: connection refused " + hostile)
	for _, path := range []string{"/", "/log", "/deliveries/x"} {
		p := parse(t, path, empty.get(path, http.StatusServiceUnavailable).Body.String())
		p.check()
		if said := text(p.root); !strings.Contains(said, "connection refused") || !strings.Contains(said, "Pushes are accepted meanwhile") {
			t.Errorf("%s: %s", path, said)
		}
	}
	if said := empty.said.String(); strings.Count(said, "a page could not be made") != 1 {
		t.Errorf("the daemon's log has\n%s", said)
	}
}

func TestPages_DoNotWaitForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range pagesAtOnce { // as if that many were being made, and none came to its end
		w.handler.slots <- struct{}{}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	answer := httptest.NewRecorder()
	w.handler.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	if said := answer.Body.String(); answer.Code != http.StatusServiceUnavailable || !strings.Contains(said, "did not answer within 5.0 s") {
		t.Errorf("%d: %s", answer.Code, said)
	}
}

func TestLog_PagesAreAllOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill()
	head, err := w.log.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pagesFrom := func(path, direction string) (positions []string) {
		for path != "" {
			p := parse(t, path, w.get(path, http.StatusOK).Body.String())
			for _, n := range p.all(func(n *html.Node) bool {
				class, _ := attribute(n, "class")
				return strings.HasPrefix(class, "position")
			}) {
				positions = append(positions, text(n))
			}
			path = ""
			for _, n := range p.named(atom.A) {
				if text(n) == direction {
					path, _ = attribute(n, "href")
				}
			}
		}
		return positions
	}
	down := pagesFrom("/log", "Older")
	if len(down) != int(head) || down[0] != fmt.Sprint(head) || down[head-1] != "1" {
		t.Errorf("the pages down have %d events of %d: %v", len(down), head, down)
	}
	up := pagesFrom("/log?before=51", "Newer")
	slices.Sort(up)
	if len(slices.Compact(up)) != int(head) {
		t.Errorf("the pages up from the first have %d events of %d", len(up), head)
	}
}

func TestDeployment_PagesOfTheHistoryAreAllOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill()
	n, path := 0, "/deployments/web"
	for pages := 0; path != ""; pages++ {
		p := parse(t, path, w.get(path, http.StatusOK).Body.String())
		for _, row := range p.named(atom.Tr) {
			if attr, _ := attribute(row.FirstChild, "data-label"); attr == "" && strings.Contains(text(row), "ago") || strings.Contains(text(row), "just now") {
				if len(slices.Collect(row.ChildNodes())) == 6 {
					n++
				}
			}
		}
		path = ""
		for _, a := range p.named(atom.A) {
			if text(a) == "Older" {
				path, _ = attribute(a, "href")
				path, _, _ = strings.Cut(path, "#")
			}
		}
		if pages > 5 {
			t.Fatal("the history has no end")
		}
	}
	if n != 27 {
		t.Errorf("the pages have %d attempts, not 27", n)
	}
}

func TestPages_AreSharedUntilSomethingHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deploy("web-1", "web", "One", "")
	w.project()
	w.get("/", http.StatusOK)
	kept, _ := w.handler.made.get("/")
	kept.page, kept.at = []byte("kept"), kept.at.Add(time.Hour) // however long it takes
	w.handler.made.put("/", kept)
	if again := w.get("/", http.StatusOK).Body.String(); again != "kept" {
		t.Error("a page is made again for the next who looks at it")
	}
	w.deploy("web-2", "web", "Two", hash("web-1"))
	w.project()
	w.has("/", "Two")
	me := w.handler
	me.o.Actor = func(*http.Request) string { return "ann" }
	for range 2 {
		if mine := w.get("/", http.StatusOK).Body.String(); !strings.Contains(mine, "signed in as") {
			t.Error("a page for nobody is given to somebody")
		}
	}
}

func TestCanceled_IsSaidOfARunWithWhoAndWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receive("stop-1", "web", "The wrong one")
	w.start("stop-1", "web", 1, "")
	canceled := of("stop-1", "web", 1, eventlog.Canceled{Reason: "the wrong one " + hostile})
	canceled.Actor = "root"
	w.append(nil, canceled)
	w.project()
	const said = "canceled by root: the wrong one"
	source, err := w.handler.o.Source()
	if err != nil {
		t.Fatal(err)
	}
	known, err := source.Deployments(t.Context(), answer.Moment{})
	if err != nil {
		t.Fatal(err)
	}
	status, err := source.Status(t.Context(), []string{"web"}, known, answer.Moment{})
	if err != nil {
		t.Fatal(err)
	}
	story, err := source.WhyDeployment(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	for command, got := range map[string]string{"status": status[0].Note(short), "why --deployment": story.Newer[0].Why} {
		if !strings.Contains(got, "is being ended: "+said) {
			t.Errorf("%s says of a run that has not ended: %q", command, got)
		}
	}
	for _, path := range []string{"/", "/deployments/web", "/deliveries/stop-1"} {
		w.has(path, "It is being ended: "+said)
	}
	w.append(nil, of("stop-1", "web", 1, eventlog.Failed{Commit: hash("stop-1"), Step: "build", Signal: "SIGTERM", Error: "canceled", DurationMS: 5}))
	w.project()
	for path, want := range map[string][]string{
		"/": {"was " + said}, "/deployments/web": {"was " + said, "web: " + short(hash("stop-1")) + " was canceled", "it was " + said}, "/deliveries/stop-1": {"Canceled at step build of web", "C" + said[1:]},
	} {
		w.has(path, want...)
		p := parse(t, path, w.get(path, http.StatusOK).Body.String())
		p.check()
		if strings.Contains(text(p.root), "SIGTERM") {
			t.Errorf("%s tells how the programs ended, too", path)
		}
	}
	if known, err = source.Deployments(t.Context(), answer.Moment{}); err != nil {
		t.Fatal(err)
	}
	if status, err = source.Status(t.Context(), []string{"web", "api"}, known, answer.Moment{}); err != nil {
		t.Fatal(err)
	}
	history, _, err := source.History(t.Context(), "web", projections.Place{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	why, err := source.Why(t.Context(), "stop-1")
	if err != nil {
		t.Fatal(err)
	}
	for command, got := range map[string]string{"status": status[0].Note(short), "history": history[0].Ended(), "why": why.Verdict()} {
		if !strings.Contains(got, said) || strings.Contains(got, "SIGTERM") {
			t.Errorf("%s says %q", command, got)
		}
	}
	w.deploy("next", "web", "Another", "")
	w.project()
	known, err = source.Deployments(t.Context(), answer.Moment{})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := source.Status(t.Context(), []string{"web"}, known, answer.Moment{}); err != nil || status[0].Canceled != "" {
		t.Errorf("after a success: %q, %v", status[0].Canceled, err)
	}
}

func TestFreeze_IsNotWhatPassesItWaitsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for id, order := range map[string]eventlog.Order{"pushed": {}, "urgent": {Override: true}, "restored": {Restores: true}} {
		order.Branch, order.Commit = "main", hash(id)
		w.append(nil, of(id, "", 1, eventlog.Received{Event: "push", Commit: hash(id), PayloadDigest: strings.Repeat("a", 64), Source: eventlog.SourceCLI, Entry: strings.ToUpper("01J" + hash(id)[:23])}),
			of(id, "web", 1, eventlog.Forwarded{Order: order}))
	}
	w.append(nil, of("freeze-1", "web", 1, eventlog.Frozen{Reason: "the finals"}))
	w.project()
	source, err := w.handler.o.Source()
	if err != nil {
		t.Fatal(err)
	}
	for id, frozen := range map[string]bool{"pushed": true, "urgent": false, "restored": false} {
		why, err := source.Why(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		page := text(parse(t, "/deliveries/"+id, w.get("/deliveries/"+id, http.StatusOK).Body.String()).root)
		for what, got := range map[string]string{"why": why.Verdict() + strings.Join(why.Next(func(args ...string) string { return strings.Join(args, " ") }), "\n"), "the page": page} {
			if strings.Contains(got, "frozen") != frozen {
				t.Errorf("%s of %s says %q", what, id, got)
			}
		}
	}
}

func TestCommits_ThatNoPushToldOfAreAskedOfTheClone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.find("by-hand", "web", eventlog.SourceCLI)
	w.find("polled", "api", eventlog.SourceRecovery)
	w.deploy("pushed", "docs", "Told by the push", "")
	w.find("absent", "idle", eventlog.SourceCLI)
	w.project()
	w.clones = map[string]map[string]git.Authored{
		"web": {hash("by-hand"): {Subject: "Found in the clone " + hostile, Author: "Yuki " + hostile}},
		"api": {hash("polled"): {Subject: "Missed by GitHub", Author: "Xu"}},
	}
	for path, want := range map[string][]string{
		"/": {"Found in the clone", "Yuki", "Missed by GitHub", "Xu", "Told by the push", short(hash("absent"))}, "/at": {"Found in the clone", "Missed by GitHub"},
		"/deployments/web": {"Found in the clone", "written by Yuki"}, "/deployments/api": {"Missed by GitHub"},
		"/deliveries/by-hand": {"Found in the clone", "Yuki"}, "/deliveries/polled": {"Missed by GitHub", "Xu"}, "/deployments/idle": {short(hash("absent"))},
	} {
		w.has(path, want...)
		parse(t, path, w.get(path, http.StatusOK).Body.String()).check()
	}
	slices.Sort(w.cloned)
	if !slices.Equal(w.cloned, []string{"api", "idle", "web"}) {
		t.Errorf("these clones were asked: %q", w.cloned)
	}
	// What was not there is asked for again later: a fetch may have brought it.
	w.clones["idle"] = map[string]git.Authored{hash("absent"): {Subject: "Fetched since", Author: "Wim"}}
	w.handler.commits.absent.put(absent{"idle", hash("absent")}, time.Now().Add(-absentFor))
	w.has("/deployments/idle?later", "Fetched since", "Wim")
}

func TestCommits_WithSlowClonesAreTheirHashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.slow = true
	for i := range 3 * clonesAsked {
		slug := fmt.Sprintf("slow-%02d", i)
		w.cfg.Deployments[slug] = &config.Deployment{Slug: slug, Repository: "octo/" + slug, Branch: "main", Enabled: true}
		w.find("hand-"+slug, slug, eventlog.SourceCLI)
	}
	w.project()
	w.handler.commits.within = clonesWithin
	w.has("/", short(hash("hand-slow-00")), short(hash("hand-slow-20")))
	if len(w.cloned) != 1 {
		t.Errorf("%d clones were asked one after another, though the first took all of the time", len(w.cloned))
	}
	w.slow, w.handler.commits.within = false, time.Minute
	w.has("/?again", short(hash("hand-slow-00")))
	if len(w.cloned) != 1+clonesAsked {
		t.Errorf("%d clones were asked for one page", len(w.cloned)-1)
	}
}

// A body that was redacted, or is not stored, does not come back by way of the clone.
func TestCommits_OfPushesAreNotAskedOfTheClone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.find("gone", "web", eventlog.SourceGitHub)
	w.project()
	w.has("/", short(hash("gone")))
	if len(w.cloned) != 0 {
		t.Errorf("these clones were asked: %q", w.cloned)
	}
}

func TestDeployment_AsksGitOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill()
	for range 3 {
		w.get("/deployments/web", http.StatusOK)
	}
	if w.asked != 1 {
		t.Errorf("git was asked %d times", w.asked)
	}
}
