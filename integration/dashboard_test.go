//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/browsertest"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// hostile is what a sender may write as the subject of a commit.
const hostile = `<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>"'&lt; ` + "\x1b[31m\u202e"

// desk is a site with its daemon, and a browser before it.
type desk struct {
	*site
	*browsertest.Browser
	daemon *process
	github *github
	tips   []string
	base   string
}

// newDesk starts both. The deployment web waits, in its step "gate", for the file gate
// beside its directory; tests fails where there is a file fail.
func newDesk(t *testing.T) *desk {
	t.Helper()
	r := newRepo(t)
	tips := r.pages("main", 3)
	s := newSite(t, pgtest.DSN(t), deployment{slug: "web", repository: "ada/web", remote: r, steps: []step{
		script("gate", `printf '\033[32mopening\033[0m\n'; until [ -e ../gate ]; do sleep 0.05; done`),
		script("tests", `echo "a line of the log <b>"; test ! -e ../fail || { echo the tests have failed; exit 3; }`),
	}}, deployment{slug: "docs", repository: "ada/docs", remote: r})
	if err := os.MkdirAll(filepath.Join(s.dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := browsertest.Start(t.Context(), tempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	d := &desk{site: s, Browser: b, daemon: s.start("serve"), tips: tips}
	d.github = s.github(d.daemon.addr())
	d.base = "http://" + d.daemon.admin()
	d.daemon.says("msg=working")
	t.Cleanup(d.daemon.stop)
	return d
}

func (d *desk) file(name string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "www", name), nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// pushed sends a push with a subject and returns its delivery.
func (d *desk) pushed(n int, subject string) delivery {
	d.t.Helper()
	p := pushOf(newID(), map[string]any{
		"ref": "refs/heads/main", "after": d.tips[n], "deleted": false,
		"repository": map[string]any{"full_name": "ada/web"}, "sender": map[string]any{"login": "ada"},
		"head_commit": map[string]any{"id": d.tips[n], "message": subject, "author": map[string]any{"name": "Ada"}},
	})
	d.github.send(p)
	return p
}

// look is a tab of the test.
type look struct {
	*browsertest.Tab
	t *testing.T
}

// open opens a tab; the browser may complain of nothing in it.
func (d *desk) open(width int) *look {
	d.t.Helper()
	tab, err := d.Open(width, 900)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		for _, p := range tab.Problems() {
			if !strings.Contains(p, nothing) {
				d.t.Errorf("the browser complains: %s", p)
			}
		}
		tab.Close()
	})
	return &look{tab, d.t}
}

func (l *look) visit(url string) {
	l.t.Helper()
	if err := l.Visit(url); err != nil {
		l.t.Fatal(err)
	}
}

// login makes the tab that of a person who may act.
func (d *desk) login(l *look) {
	l.t.Helper()
	l.visit(strings.TrimSpace(d.must("login", "--url", d.base)))
	l.do(l.Click("main form button"))
	await(l.t, "the session", func() bool { return strings.Contains(l.text("header"), "signed in as") })
}

// do ends the test with an action that fails.
func (l *look) do(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func eval[T any](l *look, script string) T {
	l.t.Helper()
	v, err := browsertest.Eval[T](l.Tab, script)
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func (l *look) text(selector string) string {
	l.t.Helper()
	return eval[string](l, fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector))
}

// shows waits until the text of an element contains what is wanted.
func (l *look) shows(selector, want string) {
	l.t.Helper()
	var last string
	defer func() {
		if l.t.Failed() {
			l.t.Logf("%s shows: %s", selector, last)
		}
	}()
	await(l.t, fmt.Sprintf("%s to show %q", selector, want), func() bool {
		last = l.text(selector)
		return strings.Contains(last, want)
	})
}

// nothing is a page that is not there.
const nothing = "/deliveries/none"

// pages are the addresses that the dashboard has for a deployment and a delivery.
func (d *desk) pages(id string) []string {
	return []string{"/", "/deployments/web", "/deliveries/" + id, "/log", "/log?type=started&deployment=web", "/at", "/proof", nothing}
}

func TestDashboard_ShowsAPushGoLiveWithoutAReload(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	l := d.open(1280)
	l.visit(d.base + "/")
	l.shows("#test-web", "never")
	eval[bool](l, `window.stayed = true`)
	d.pushed(0, "Greet the reader")
	l.shows("#test-web", "running")
	l.shows("#test-web", "Greet the reader")
	l.shows("#test-web", "gate")
	d.file("gate")
	l.shows("#test-web .mark", "live")
	l.shows("#test-web", d.tips[0][:8])
	if !eval[bool](l, `window.stayed === true`) {
		t.Error("the page was loaded again")
	}
}

// The page of a run follows its log while it runs, and shows why it failed.
func TestDashboard_FollowsARunAndShowsWhyItFailed(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("fail")
	p := d.pushed(0, "Break the tests")
	d.until("a run", func(all story) bool { return len(all.type_(eventlog.TypeStarted)) == 1 })
	l := d.open(1280)
	l.visit(d.base + "/deliveries/" + p.id)
	l.shows("pre.log", "opening")
	eval[bool](l, `window.stayed = true`)
	d.file("gate")
	l.shows("pre.log", "the tests have failed")
	l.shows("pre.log", "a line of the log <b>")
	l.shows("h1", "Failed")
	l.shows("main", "exit")
	l.shows("main", "tests")
	if !eval[bool](l, `window.stayed === true`) {
		t.Error("the page was loaded again")
	}
	if text := eval[string](l, `document.querySelector("pre.log").textContent`); strings.Contains(text, "\x1b") {
		t.Errorf("the log shows escapes: %q", text)
	}
	if eval[int](l, `document.querySelectorAll("pre.log span[class]").length`) == 0 {
		t.Error("the log has no colours")
	}
	l.visit(d.base + "/")
	l.shows("#test-web .mark", "failed")
}

func TestDashboard_KeepsAHostileSubjectText(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	p := d.pushed(0, hostile)
	d.ends(p.id)
	l := d.open(1280)
	for _, path := range d.pages(p.id)[:5] {
		l.visit(d.base + path)
		if eval[bool](l, `"pwned" in window || document.querySelector("main img, main script") !== null`) {
			t.Errorf("%s: the subject is more than text", path)
		}
	}
	l.visit(d.base + "/")
	l.shows("#test-web", `<img src=x onerror="window.pwned=1">`)
	if text := eval[string](l, `document.body.textContent`); strings.ContainsAny(text, "\x1b\u202e") {
		t.Error("the page has control characters of the sender")
	}
}

// Every link, field and button is reached with the Tab key, in the order of the page,
// and it can be seen which one has the focus.
func TestDashboard_IsUsedByKeyboard(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	p := d.pushed(0, "One")
	d.ends(p.id)
	l := d.open(1280)
	d.login(l)
	for _, path := range d.pages(p.id) {
		l.visit(d.base + path)
		const able = `a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]`
		want := eval[int](l, fmt.Sprintf(`[...document.querySelectorAll(%q)].filter(e => e.checkVisibility() && !e.disabled).length`, able))
		eval[bool](l, `(window.order = []) && true`)
		reached := 0
		for presses := 0; reached < want && presses < 10*want; presses++ { // a field of a date has several stops
			l.do(l.Press("\t"))
			seen := eval[string](l, `(() => { const e = document.activeElement, s = getComputedStyle(e);
				if (e === document.body) return "nothing has the focus";
				if (window.order.at(-1) === e) return "";
				if (window.order.includes(e)) return "the focus came back to " + e.outerHTML.slice(0, 200);
				window.order.push(e);
				const r = e.getBoundingClientRect();
				if (r.width === 0 || r.height === 0 || r.bottom < 0 || r.top > innerHeight) return "it is not in sight: " + e.outerHTML.slice(0, 200);
				return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1 || s.boxShadow !== "none" ? "" : "nothing shows the focus of " + e.outerHTML.slice(0, 200); })()`)
			reached = eval[int](l, `window.order.length`)
			if seen != "" {
				t.Errorf("%s: at %d of %d: %s", path, reached, want, seen)
				break
			}
		}
	}
	// The arrow keys move the slider, and Enter goes there.
	l.visit(d.base + "/at")
	eval[bool](l, `document.getElementById("minutes").focus() || true`)
	l.do(l.Press("\u0302\u0302"))
	if got := eval[string](l, `location.search + (document.activeElement.max - document.activeElement.value)`); got != "10" {
		t.Errorf("after two steps to the left: %s", got)
	}
	l.do(l.Press("\r"))
	await(t, "the moment to be shown", func() bool { return strings.Contains(eval[string](l, `location.search`), "minutes=") })
	// The first of them leads past the head of the page; Enter follows a link.
	l.visit(d.base + "/")
	l.do(l.Press("\t"))
	l.do(l.Press("\r"))
	if at := eval[string](l, `location.hash + " " + document.activeElement.id`); at != "#main main" {
		t.Errorf("the first link leads to %q", at)
	}
	l.do(l.Press("\t"))
	l.do(l.Press("\r"))
	await(t, "the link to be followed", func() bool { return strings.HasPrefix(eval[string](l, `location.pathname`), "/deployments/") })
}

// The focus stays where it is when the page becomes another one.
func TestDashboard_KeepsTheFocus(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	d.ends(d.pushed(0, "One").id)
	l := d.open(1280)
	d.login(l)
	l.visit(d.base + "/deployments/web")
	eval[bool](l, `document.querySelector("#act-freeze > summary").focus() || true`)
	d.ends(d.pushed(1, "Two").id)
	l.shows("h1", d.tips[1][:8])
	if at := eval[string](l, `document.activeElement.localName + " of " + document.activeElement.parentElement.id`); at != "summary of act-freeze" {
		t.Errorf("the focus is at %s", at)
	}
}

// A page that stays open has the stylesheet of a new version of the deployer, and does not say
// that somebody is signed in who is not.
func TestDashboard_IsNewAroundItsMainPartToo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	l := d.open(1280)
	d.login(l)
	l.visit(d.base + "/deployments/web")
	eval[bool](l, `(document.querySelector("link[rel=stylesheet]").href = "/assets/style.css?v=older") !== ""`)
	d.ends(d.pushed(0, "One").id)
	await(t, "the new stylesheet", func() bool {
		return !strings.Contains(eval[string](l, `document.querySelector("link[rel=stylesheet]")?.href ?? "older"`), "older")
	})
	eval[bool](l, `fetch("/logout", { method: "POST" }) && true`)
	await(t, "the header to name nobody", func() bool {
		header := l.text("header.top")
		return header != "" && !strings.Contains(header, "signed in as")
	})
}

// A page is asked for again and again where something between it and the daemon cuts the
// stream of events, or keeps to itself what comes in it.
func TestDashboard_IsRefreshedWithoutTheStream(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	daemon, err := url.Parse(d.base)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(daemon) }}
	between := func(stream http.HandlerFunc) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v1/events" {
				stream(w, r)
				return
			}
			forward.ServeHTTP(w, r)
		}))
		t.Cleanup(s.Close)
		return s.URL + "/deployments/web"
	}
	cuts := between(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	keeps := between(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	tab, err := d.Open(1280, 900) // the browser complains of the stream
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tab.Close)
	cut, kept := &look{tab, t}, d.open(1280)
	cut.visit(cuts)
	kept.visit(keeps)
	kept.shows("#live", "live")
	d.ends(d.pushed(0, "One").id)
	cut.shows("h1", d.tips[0][:8])
	// Of this one it is seen with the next refresh, which is not waited for.
	eval[bool](kept, `document.dispatchEvent(new Event("visibilitychange"))`)
	kept.shows("#live", "refreshed every 5 s")
	d.ends(d.pushed(1, "Two").id)
	kept.shows("h1", d.tips[1][:8])
}

// What a screen reader needs: one heading of the page, landmarks, a name for
// everything that can be used or that is a picture.
func TestDashboard_HasNamesForAScreenReader(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	p := d.pushed(0, "One")
	d.ends(p.id)
	l := d.open(1280)
	d.login(l)
	for _, path := range d.pages(p.id) {
		l.visit(d.base + path)
		for _, wrong := range eval[[]string](l, `(() => { const wrong = [], all = q => [...document.querySelectorAll(q)];
			if (all("h1").length !== 1) wrong.push("it has " + all("h1").length + " h1");
			for (const q of ["main", "header", "nav", "footer", "html[lang]", "title"]) if (!document.querySelector(q)) wrong.push("it has no " + q);
			for (const e of all("a[href], button, summary")) if (e.checkVisibility() && !(e.innerText || "").trim() && !e.getAttribute("aria-label")) wrong.push("it has no name: " + e.outerHTML.slice(0, 200));
			for (const e of all("input:not([type=hidden]), select, textarea")) if (!e.labels.length && !e.getAttribute("aria-label")) wrong.push("it has no label: " + e.outerHTML.slice(0, 200));
			for (const e of all("svg")) if (!e.closest("[aria-hidden=true]") && !(e.getAttribute("role") === "img" && e.getAttribute("aria-label"))) wrong.push("a picture has no name: " + e.outerHTML.slice(0, 200));
			const ids = all("[id]").map(e => e.id); for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push("the id " + id + " is there twice");
			return wrong; })()`) {
			t.Errorf("%s: %s", path, wrong)
		}
	}
}

func TestDashboard_FitsAPhone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	ids := []string{d.pushed(0, strings.Repeat("long-without-a-space-", 30)).id}
	d.ends(ids...)
	d.file("fail")
	ids = append(ids, d.pushed(1, strings.Repeat("many words ", 60)).id)
	d.ends(ids[1])
	for _, width := range []int{360, 768, 1440} {
		l := d.open(width)
		d.login(l)
		for _, path := range slices.Concat(d.pages(ids[0]), d.pages(ids[1])) {
			l.visit(d.base + path)
			eval[bool](l, `(document.querySelectorAll("details").forEach(d => { d.removeAttribute("name"); d.open = true; }), true)`)
			if w := eval[int](l, `document.documentElement.scrollWidth`); w > width {
				t.Errorf("%s is %d wide on a screen of %d: %s", path, w, width, eval[string](l, fmt.Sprintf(
					`[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > %d).map(e => e.outerHTML.slice(0, 80)).slice(0, 3).join(" | ")`, width)))
			}
		}
	}
}

// The dark colours are others, and texts stand out from what is behind them (WCAG 2, AA).
func TestDashboard_IsReadInBothLights(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	d.file("fail")
	p := d.pushed(0, "One")
	d.ends(p.id)
	var backgrounds []string
	for _, dark := range []bool{false, true} {
		l := d.open(1280)
		d.login(l)
		if dark {
			l.do(l.Dark())
		}
		for _, path := range d.pages(p.id) {
			l.visit(d.base + path)
			for _, low := range eval[[]string](l, contrasts) {
				t.Errorf("dark %v: %s: %s", dark, path, low)
			}
		}
		backgrounds = append(backgrounds, eval[string](l, `getComputedStyle(document.body).backgroundColor`))
	}
	if backgrounds[0] == backgrounds[1] {
		t.Errorf("the background is %s in both", backgrounds[0])
	}
}

// contrasts lists the texts whose colour is too near that of their background.
const contrasts = `(() => {
	const parse = c => (c.match(/[\d.]+/g) || []).map(Number);
	const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
	const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a)); };
	const behind = e => { const layers = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if ((c[3] ?? 1) > 0) { layers.push(c); if ((c[3] ?? 1) === 1) break; } }
		return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]); };
	const low = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; n = walk.nextNode();) {
		const e = n.parentElement, s = getComputedStyle(e);
		if (!n.data.trim() || !e.checkVisibility() || e.closest("svg, script, noscript, .hidden, .skip") || s.opacity < 1) continue;
		const back = behind(e), front = over(parse(s.color), back), [a, b] = [light(front), light(back)].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(s.fontSize), big = size >= 24 || size >= 18.66 && s.fontWeight >= 700;
		if (ratio < (big ? 3 : 4.5)) low.push(ratio.toFixed(2) + ": " + n.data.trim().slice(0, 40) + " " + s.color + " on " + back.map(Math.round));
	}
	return low.slice(0, 5);
})()`

func TestDashboard_WorksWithoutScripts(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	l := d.open(1280)
	l.do(l.WithoutScripts())
	l.visit(d.base + "/")
	d.file("gate")
	p := d.pushed(0, "One")
	d.ends(p.id)
	// The page refreshes itself.
	l.shows("#test-web .mark", "live")
	for _, path := range d.pages(p.id) {
		l.visit(d.base + path)
		if l.text("h1") == "" {
			t.Errorf("%s has no headline", path)
		}
	}
}

// A person signs in with the link of `login`, and what they do is in the log with their name.
func TestDashboard_ActsForAPersonWhoSignedIn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.file("gate")
	d.ends(d.pushed(0, "One").id)
	l := d.open(1280)
	l.visit(d.base + "/deployments/web")
	if eval[int](l, `document.querySelectorAll("main form[method=post]").length`) != 0 {
		t.Error("a reader is offered what they may not do")
	}
	d.login(l)
	l.visit(d.base + "/deployments/web")
	l.do(l.Click("#act-freeze summary"))
	l.do(l.Click("#act-freeze [name=reason]"))
	l.do(l.Press("a look at <the> rain"))
	l.do(l.Click("#act-freeze form button"))
	all := d.until("a freeze", func(all story) bool { return len(all.type_(eventlog.TypeFrozen)) == 1 })
	e := all.type_(eventlog.TypeFrozen)[0]
	if why := data[eventlog.Frozen](d.site, e).Reason; why != "a look at <the> rain" || e.Actor == "" {
		t.Errorf("frozen by %q: %q", e.Actor, why)
	}
	l.shows("main", "a look at <the> rain") // the answer to the form
	l.visit(d.base + "/")
	l.shows("#test-web", "a look at <the> rain")
}
