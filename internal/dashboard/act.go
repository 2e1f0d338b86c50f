package dashboard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// actWithin bounds an act, which goes on when its browser has left: a second click
	// ends the request of the first.
	actWithin = 25 * time.Second
	// formMax bounds a form, in bytes; nameMax a name in it, in characters.
	formMax = 16 << 10
	nameMax = 100
	// actsAMinute is how often one person may act.
	actsAMinute = 30
	// actsKept is of how many acts it is known that they were done, so that a second click
	// does nothing.
	actsKept = 1000
)

// DeskOptions are what a Desk works with.
type DeskOptions struct {
	Config *config.Config
	// Logins are who may act. Its error says why that cannot be told now.
	Logins func() (Logins, error)
	// Person is the actor of that name, ready to act.
	Person func(name string) (*act.Person, error)
	// Tell answers with a page, made from a template.
	Tell func(w http.ResponseWriter, r *http.Request, code int, template, title string, data any)
	Log  *slog.Logger
}

// Desk is where people act: it knows who asks, and does what they post.
type Desk struct {
	o       DeskOptions
	cross   *http.CrossOriginProtection
	posts   *http.ServeMux
	clicks  clicks
	tallies tallies
}

// NewDesk returns a desk.
func NewDesk(o DeskOptions) *Desk {
	d := &Desk{o: o, cross: http.NewCrossOriginProtection(), posts: http.NewServeMux()}
	d.cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.refuse(w, r, &refusal{http.StatusForbidden, "This came from another site", "Only the pages of this dashboard may act: open the dashboard itself, and act there."})
	}))
	d.posts.HandleFunc("POST /login", d.login)
	d.posts.HandleFunc("POST /logout", d.logout)
	for _, verb := range []string{"deploy", "rollback", "freeze", "thaw", "pin", "unpin", "cancel"} {
		d.posts.HandleFunc("POST /deployments/{slug}/"+verb, d.acts(verb))
	}
	for _, verb := range []string{"freeze", "thaw"} {
		d.posts.HandleFunc("POST /"+verb, d.acts(verb))
	}
	for _, verb := range []string{"replay", "cancel"} {
		d.posts.HandleFunc("POST /deliveries/{id}/"+verb, d.acts(verb))
	}
	d.posts.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", "GET, HEAD")
		d.refuse(w, r, &refusal{http.StatusMethodNotAllowed, "Nothing can be done here", "The buttons of a page say what can be done about it."})
	})
	return d
}

type viewerKey struct{}

// Around answers what is posted, and logins; the rest is for next.
func (d *Desk) Around(next http.Handler) http.Handler {
	posts := d.cross.Handler(d.posts)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(context.WithValue(r.Context(), viewerKey{}, sync.OnceValues(func() (string, error) { return d.viewer(r) })))
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			posts.ServeHTTP(w, r)
		case r.URL.Path == "/login":
			d.offer(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// Actor is who asks, "" where nobody has said so.
func (d *Desk) Actor(r *http.Request) string {
	actor, _ := d.known(r) // what is read may be read by anyone
	return actor
}

// known is Actor, with what keeps it from being told.
func (d *Desk) known(r *http.Request) (string, error) {
	viewer, ok := r.Context().Value(viewerKey{}).(func() (string, error))
	if !ok {
		return "", nil
	}
	return viewer()
}

// viewer finds out who asks: the proxy says it, or a session.
func (d *Desk) viewer(r *http.Request) (string, error) {
	if name := d.named(r); name != "" {
		return name, nil
	}
	cookie, err := r.Cookie(d.cookieName(r))
	if err != nil {
		return "", nil
	}
	logins, err := d.o.Logins()
	if err != nil {
		return "", err
	}
	actor, err := logins.session(r.Context(), cookie.Value)
	if errors.Is(err, errNoLogin) {
		err = nil
	}
	return actor, err
}

// named is whom the proxy names.
func (d *Desk) named(r *http.Request) string {
	header := d.o.Config.Admin.UserHeader
	if header == "" || !fromHere(r) {
		return ""
	}
	values := r.Header.Values(header)
	if len(values) != 1 || !plainName(values[0]) {
		return ""
	}
	return values[0]
}

// plainName says whether a proxy's name of somebody is one.
func plainName(s string) bool {
	return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= nameMax && s == strings.TrimSpace(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// fromHere says whether a request came from this host: what a proxy adds is believed only then.
func fromHere(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(strings.Split(host, "%")[0])
	return ip != nil && ip.IsLoopback()
}

// secure says whether the browser came by TLS, to a proxy on this host.
func secure(r *http.Request) bool {
	return fromHere(r) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// cookieName is that of the instance's session: cookies are of a host, whatever the port.
// Browsers give one with the prefix __Host- only back to whom they have it from.
func (d *Desk) cookieName(r *http.Request) string {
	sum := sha256.Sum256([]byte(d.o.Config.Instance))
	name := "durhack-deployer-" + hex.EncodeToString(sum[:4])
	if secure(r) {
		return "__Host-" + name
	}
	return name
}

func (d *Desk) setCookie(w http.ResponseWriter, r *http.Request, secret string, lasts time.Duration) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure where the browser came by TLS: it would not keep it else
		Name: d.cookieName(r), Value: secret, Path: "/", MaxAge: int(lasts.Seconds()),
		Secure: secure(r), HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// Actions are what the viewer may do about something.
func (d *Desk) Actions(r *http.Request, about Subject) []Action {
	if d.Actor(r) == "" {
		return nil
	}
	slug := about.Deployment
	var actions []Action
	add := func(verb, label, says, kind string, reason bool, fields ...string) {
		a := Action{Path: "/deployments/" + slug + "/" + verb, For: verb == "freeze", Label: label, Says: says, Kind: kind, Reason: reason, ID: verb, Fields: map[string]string{"id": act.NewID(time.Now())}}
		if slug == "" {
			a.Path = "/" + verb
		}
		if verb == "replay" || verb == "cancel" {
			a.Path = "/deliveries/" + about.DeliveryID + "/" + verb
			a.ID += "-" + slug
		}
		for i := 0; i < len(fields); i += 2 {
			a.Fields[fields[i]] = fields[i+1]
		}
		actions = append(actions, a)
	}
	if about.Running {
		add("cancel", "Cancel the run", "Ends the programs of the run at "+slug+". It counts as failed.", "danger", true, "deployment", slug, "attempt", strconv.Itoa(about.Attempt))
	}
	if about.Delivery {
		if !about.Open {
			label := "Replay"
			if slug != "" {
				label += " at " + slug
			}
			add("replay", label, "Runs this delivery again, as a new attempt. A commit that is behind what is live is not deployed.", "", true, "deployment", slug)
		}
		return actions
	}
	if slug == "" {
		if about.Frozen {
			add("thaw", "Thaw all deployments", "Ends the freeze of all deployments: of each that is not frozen by itself, the newest push that has waited is deployed.", "", true)
		} else {
			add("freeze", "Freeze all deployments", "Lets pushes wait, at all deployments of "+d.o.Config.Instance+".", "", true)
		}
		return actions
	}
	branch := ""
	if c := d.o.Config.Deployments[slug]; c != nil {
		branch = c.Branch
	}
	if about.Pinned || about.Frozen {
		add("deploy", "Deploy "+branch+" all the same", "Deploys the newest commit of "+branch+" now. What holds the deployment stays.", "", true, "override", "1")
	} else {
		add("deploy", "Deploy "+branch, "Deploys the newest commit of "+branch+" now, as a push of it would.", "first", false)
	}
	switch {
	case about.Failed && about.Live != "":
		add("rollback", "Put "+short(about.Live)+" back", "Deploys what was live until the newest run failed, and pins it: pushes are not deployed until it is unpinned.", "", true, "to", about.Live)
	case about.Before != "" && about.Before != about.Live:
		add("rollback", "Roll back to "+short(about.Before), "Deploys what was live before, and pins it: pushes are not deployed until it is unpinned.", "danger", true, "to", about.Before)
	}
	switch {
	case about.Pinned:
		add("unpin", "Unpin", "Lets pushes be deployed again. What came meanwhile stays as it is.", "", true)
	case about.Live != "":
		add("pin", "Pin", "Keeps "+short(about.Live)+": pushes are not deployed until it is unpinned.", "", true, "live", about.Live)
	}
	if about.Frozen {
		add("thaw", "Thaw", "Ends the freeze: the newest push that has waited is deployed.", "", true)
	} else {
		add("freeze", "Freeze", "Lets pushes wait, and then deploys the newest of them.", "", true)
	}
	return actions
}

// refusal is a page that says why something was not done, and what to do.
type refusal struct {
	Code           int
	Headline, Next string
}

func (r *refusal) Error() string { return r.Headline }

var linkIsOver = &refusal{http.StatusForbidden, "This link does not work any more", "A link works once, within a minute. `durhack-deployer login` prints another one."}

// Offer is what the page "login" shows.
type Offer struct{ Actor, Token string }

// offer shows whose login a link is. It takes a click to use it up: mail programs and
// messengers open links before people do.
func (d *Desk) offer(w http.ResponseWriter, r *http.Request) {
	token := r.URL.Query().Get("token")
	if token == "" {
		d.refuse(w, r, &refusal{http.StatusForbidden, "It takes a link to log in", "`durhack-deployer login`, on the host, prints one: it works once, within a minute."})
		return
	}
	logins, err := d.o.Logins()
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	actor, err := logins.offered(r.Context(), token)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	d.o.Tell(w, r, http.StatusOK, "login", "Log in as "+actor, Offer{actor, token})
}

func (d *Desk) login(w http.ResponseWriter, r *http.Request) {
	err := d.form(w, r)
	var logins Logins
	if err == nil {
		logins, err = d.o.Logins()
	}
	var secret, actor string
	if err == nil {
		secret, actor, err = logins.redeem(r.Context(), r.PostForm.Get("token"))
	}
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	if old, err := r.Cookie(d.cookieName(r)); err == nil {
		if err := logins.end(r.Context(), old.Value); err != nil {
			d.o.Log.Warn("a session cannot be ended; it ends by itself within a day", "error", err)
		}
	}
	d.o.Log.Info("logged in at the dashboard", "actor", actor)
	d.setCookie(w, r, secret, sessionLasts)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (d *Desk) logout(w http.ResponseWriter, r *http.Request) {
	if d.named(r) != "" {
		d.refuse(w, r, &refusal{http.StatusConflict, "You are logged in elsewhere", "The proxy in front of the dashboard says who you are: log out there, or close the browser."})
		return
	}
	if cookie, err := r.Cookie(d.cookieName(r)); err == nil {
		logins, err := d.o.Logins()
		if err == nil {
			err = logins.end(r.Context(), cookie.Value)
		}
		if err != nil {
			d.refuse(w, r, err)
			return
		}
	}
	d.setCookie(w, r, "", -time.Second)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// form reads what was posted.
func (d *Desk) form(w http.ResponseWriter, r *http.Request) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return &refusal{http.StatusUnsupportedMediaType, "This is no form of the dashboard", "Use the buttons of a page."}
	}
	r.Body = http.MaxBytesReader(w, r.Body, formMax)
	err = r.ParseForm()
	if errors.As(err, new(*http.MaxBytesError)) {
		return &refusal{http.StatusRequestEntityTooLarge, "This is too long", fmt.Sprintf("A reason has at most %d characters.", act.MaxReason)}
	}
	if err != nil {
		return &refusal{http.StatusBadRequest, "This form cannot be read", "Go back to the page, load it again, and use its button."}
	}
	return nil
}

// acts answers the posts of a verb.
func (d *Desk) acts(verb string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		to, err := d.act(w, r, verb)
		if err != nil {
			d.refuse(w, r, err)
			return
		}
		http.Redirect(w, r, to, http.StatusSeeOther) //nolint:gosec // a page of ours, see errand.page
	}
}

// act does it, once for each form that was shown, and returns the page that tells.
func (d *Desk) act(w http.ResponseWriter, r *http.Request, verb string) (page string, err error) {
	actor, err := d.known(r)
	if err != nil {
		return "", err
	}
	if actor == "" {
		return "", &refusal{http.StatusForbidden, "You can only read here", "To act, run `durhack-deployer login` on the host, and open the link that it prints."}
	}
	if !d.tallies.allow(actor, time.Now()) {
		return "", &refusal{http.StatusTooManyRequests, "That is too much at once", fmt.Sprintf("At most %d acts a minute. Wait for a moment, and try again.", actsAMinute)}
	}
	if err := d.form(w, r); err != nil {
		return "", err
	}
	o, err := errandOf(r, verb)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actWithin)
	defer cancel()
	return d.clicks.once(ctx, actor+" "+r.URL.Path+" "+o.id, o.id != "", func() (string, error) {
		person, err := d.o.Person(actor)
		if err != nil {
			return "", err
		}
		if done, err := o.before(ctx, person); err != nil || done {
			return o.page("before", nil), err
		}
		return o.do(ctx, person)
	})
}

// errand is what a form asks for.
type errand struct {
	verb, slug, delivery string
	// id is that of the form: what it orders is in the log under this one.
	id     string
	reason string
	// until is when a freeze ends by itself; zero for never.
	until time.Time
	form  url.Values
}

// freezes are how long a form may freeze for, as durations; "" is until it is thawed.
var freezes = []string{"", "1h", "4h", "12h", "24h", "72h", "168h"}

func errandOf(r *http.Request, verb string) (errand, error) {
	o := errand{verb: verb, slug: r.PathValue("slug"), delivery: r.PathValue("id"), form: r.PostForm, id: r.PostForm.Get("id")}
	if o.delivery != "" {
		o.slug = r.PostForm.Get("deployment")
	}
	if _, err := ulid.ParseStrict(o.id); err != nil {
		o.id = ""
	}
	var err error
	o.reason, err = act.Reason(strings.ToValidUTF8(r.PostForm.Get("reason"), "\uFFFD"))
	if err != nil {
		return o, &refusal{http.StatusBadRequest, "The reason is too long", fmt.Sprintf("Use at most %d characters.", act.MaxReason)}
	}
	if lasts := r.PostForm.Get("for"); !slices.Contains(freezes, lasts) {
		return o, &refusal{http.StatusBadRequest, "That is no time to freeze for", "Choose one that the form offers; `durhack-deployer freeze --until` takes any."}
	} else if lasts != "" {
		d, _ := time.ParseDuration(lasts) // each is one
		o.until = time.Now().UTC().Truncate(time.Second).Add(d)
	}
	needed := verb != "cancel" && (verb != "deploy" || o.form.Has("override"))
	if o.reason == "" && needed {
		return o, &refusal{http.StatusBadRequest, "The reason is missing", "Say in a few words why: it goes into the log with your name."}
	}
	return o, nil
}

// before says whether the log has what the form ordered: it was sent twice, with a
// restart of the daemon in between. A rollback is two acts, the second of which may be missing.
func (o errand) before(ctx context.Context, p *act.Person) (bool, error) {
	if o.id == "" || o.verb == "rollback" {
		return false, nil
	}
	for _, err := range p.Log.Find(ctx, eventlog.Filter{Instance: p.Config.Instance, DeliveryID: o.id, Limit: 1}) {
		return err == nil, err
	}
	return false, nil
}

// do does it, and returns the page that tells.
func (o errand) do(ctx context.Context, p *act.Person) (string, error) {
	switch o.verb {
	case "deploy":
		deploy := act.Deploy{ID: o.id, Ref: o.form.Get("ref")}
		if o.form.Has("override") {
			deploy.Override, deploy.Reason = true, o.reason
		}
		id, commit, err := p.Deploy(ctx, o.slug, deploy)
		return o.page("deploy", url.Values{"delivery": {id}, "commit": {commit}}), err
	case "rollback":
		done, err := p.Rollback(ctx, o.id, o.slug, o.form.Get("to"), o.reason)
		return o.page("rollback", url.Values{"delivery": {done.DeliveryID}, "commit": {done.Commit}}), err
	case "pin":
		live, _, err := p.Pin(ctx, o.id, o.slug, o.form.Get("live"), o.reason)
		return o.page("pin", url.Values{"commit": {live.Commit}}), err
	case "unpin":
		missed, err := p.Unpin(ctx, o.id, o.slug, o.reason)
		said := url.Values{}
		if missed != nil {
			said.Set("commit", missed.Commit)
		}
		return o.page("unpin", said), err
	case "freeze":
		said := "freeze"
		if o.slug == "" {
			said = "freeze-all"
		}
		return o.page(said, nil), p.Freeze(ctx, o.id, o.slug, o.until, o.reason)
	case "thaw":
		allStill, err := p.Thaw(ctx, o.id, o.slug, o.reason)
		said := "thaw"
		if o.slug == "" {
			said = "thaw-all"
		} else if allStill {
			said = "thaw-one"
		}
		return o.page(said, nil), err
	case "cancel":
		attempt, _ := strconv.Atoi(o.form.Get("attempt")) // 0 is any
		_, err := p.Cancel(ctx, o.slug, o.reason, act.Run{DeliveryID: o.delivery, Attempt: attempt})
		return o.page("cancel", nil), err
	}
	_, err := p.Replay(ctx, o.delivery, act.Parts{Deployment: o.slug}, o.reason)
	if err == nil {
		err = p.Sign(ctx)
	}
	return o.page("replay", nil), err
}

// page is where the order is seen, with what is said there of it.
func (o errand) page(said string, about url.Values) string {
	if about == nil {
		about = url.Values{}
	}
	about.Set("said", said)
	path := "/"
	if o.slug != "" {
		path = "/deployments/" + url.PathEscape(o.slug)
	}
	if o.delivery != "" {
		path = "/deliveries/" + url.PathEscape(o.delivery)
	}
	return path + "?" + about.Encode()
}

// Said is what a page says first after somebody has acted.
type Said struct {
	Text string
	// Delivery is what was ordered, where it is another page.
	Delivery string
}

// SaidIn is what the address of a page has it say; only what is known is said, as
// anyone may have written the address.
func SaidIn(r *http.Request) *Said {
	query := r.URL.Query()
	commit, delivery := query.Get("commit"), query.Get("delivery")
	if !names.Commit(commit) {
		commit = ""
	}
	if !names.DeliveryID(delivery) {
		delivery = ""
	}
	of, at := "", " what was live"
	if commit != "" {
		of, at = " of "+short(commit), " "+short(commit)
	}
	text := map[string]string{
		"deploy":     "The deploy" + of + " is ordered.",
		"rollback":   "It is pinned to" + at + ", and the deploy of that is ordered.",
		"pin":        "It is pinned to" + at + ": pushes are not deployed until it is unpinned.",
		"unpin":      "It is unpinned: the next push is deployed.",
		"freeze":     "It is frozen: what comes waits until it is thawed.",
		"freeze-all": "All deployments are frozen: what comes waits until they are thawed.",
		"thaw":       "It is thawed: what has waited is deployed now.",
		"thaw-all":   "All deployments are thawed, but those that are frozen by themselves: what has waited is deployed now.",
		"thaw-one":   "It is thawed by itself, but all deployments are still frozen: the first page, or `durhack-deployer thaw`, ends that.",
		"cancel":     "The run is canceled: its programs are being ended.",
		"replay":     "The replay is ordered.",
		"before":     "That was done before, and not once more.",
	}[query.Get("said")]
	if text == "" {
		return nil
	}
	if query.Get("said") == "unpin" && commit != "" {
		text += " What it missed stays voided; the newest of that is" + at + "."
	}
	return &Said{Text: text, Delivery: delivery}
}

// refuse answers with what is wrong, and what to do.
func (d *Desk) refuse(w http.ResponseWriter, r *http.Request, err error) {
	page, known := errors.AsType[*refusal](err)
	asked, wrong := errors.AsType[*answer.Error](err)
	refused, acted := errors.AsType[*act.Error](err)
	slug := r.PathValue("slug")
	switch {
	case known:
	case errors.Is(err, errNoLogin):
		page = linkIsOver
	case wrong && (asked.Kind == answer.UnknownDeployment || asked.Kind == answer.UnknownDelivery):
		page = refusalOf(http.StatusNotFound, slug, err, asked.Hint)
	case wrong:
		page = refusalOf(http.StatusBadRequest, slug, err, asked.Hint)
	case acted && refused.Wrong:
		page = refusalOf(http.StatusBadRequest, slug, err, refused.Hint)
	case acted:
		page = refusalOf(http.StatusConflict, slug, err, refused.Hint)
	default:
		d.o.Log.Warn("what was asked for at the dashboard could not be done", "path", r.URL.Path, "error", err)
		page = &refusal{http.StatusServiceUnavailable, "That could not be done now", sentenceOf(words.Shorten(err.Error(), 1000))}
	}
	d.o.Tell(w, r, page.Code, "problem", page.Headline, page)
}

// refusalOf is the page of an error and its hint, bounded: it may quote what others wrote.
// What an error says behind a semicolon is no part of the headline, and a name that it begins
// with, the slug or a hash, is no word to be capitalised.
func refusalOf(code int, slug string, err error, hint string) *refusal {
	headline, more, _ := strings.Cut(words.Shorten(err.Error(), 1000), "; ")
	if first, _, _ := strings.Cut(headline, " "); first != slug && !names.CommitBeginning(first) {
		headline = sentenceOf(headline)
	}
	return &refusal{code, strings.TrimRight(headline, "."), strings.TrimSpace(sentenceOf(more) + " " + sentenceOf(hint))}
}

func sentenceOf(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	return string(unicode.ToUpper(first)) + strings.TrimRight(text[size:], ".") + "."
}

// clicks are the acts of late, by the form that ordered them: a second click gets the
// answer of the first.
type clicks struct {
	mu    sync.Mutex
	known map[string]*click
	order []string
}

type click struct {
	done chan struct{}
	page string
	err  error
}

// once calls f, unless it was called for the key. What failed may be tried again.
func (c *clicks) once(ctx context.Context, key string, keyed bool, f func() (string, error)) (string, error) {
	if !keyed {
		return f()
	}
	c.mu.Lock()
	if c.known == nil {
		c.known = map[string]*click{}
	}
	k, again := c.known[key]
	if !again {
		k = &click{done: make(chan struct{})}
		c.known[key] = k
		if c.order = append(c.order, key); len(c.order) > actsKept {
			delete(c.known, c.order[0])
			c.order = c.order[1:]
		}
	}
	c.mu.Unlock()
	if again {
		select {
		case <-k.done:
			return k.page, k.err
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	defer close(k.done)
	if k.page, k.err = f(); k.err != nil {
		c.mu.Lock()
		delete(c.known, key)
		c.mu.Unlock()
	}
	return k.page, k.err
}

// tallies count what people do within a minute.
type tallies struct {
	mu     sync.Mutex
	minute time.Time
	counts map[string]int
}

func (t *tallies) allow(actor string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if minute := now.Truncate(time.Minute); !minute.Equal(t.minute) {
		t.minute, t.counts = minute, map[string]int{}
	}
	t.counts[actor]++
	return t.counts[actor] <= actsAMinute
}
