package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/ducompsoc/durhack-deployer/docs"
	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
)

var digest = strings.Repeat("0123456789abcdef", 4)

func order(n int) eventlog.Order {
	return eventlog.Order{Branch: "main", Commit: commit(n), Rule: "branch main", ConfigDigest: digest}
}

func (w *world) push(delivery, slug string, n int) {
	w.append(delivery, slug, 1, received(n, slug), eventlog.Forwarded{Order: order(n)})
}

func (w *world) begin(delivery, slug string, attempt, n int) {
	w.t.Helper()
	host, err := os.Hostname()
	if err != nil {
		w.t.Fatal(err)
	}
	w.append(delivery, slug, attempt, eventlog.Started{Commit: commit(n), Host: host, PID: 7, Plan: []string{"fetch", "build"}, RunLog: "/r"})
}

var steps = []eventlog.Step{{Name: "fetch", DurationMS: 5, Result: "ok"}, {Name: "build", DurationMS: 9, Result: "ok"}}

// live is a log with every type of event, and deployments in each state.
func (w *world) live() {
	w.t.Helper()
	code := 3
	w.push("web-1", "web", 1)
	w.begin("web-1", "web", 1, 1)
	w.append("web-1", "web", 1, eventlog.Deployed{Commit: commit(1), Steps: steps, DurationMS: 14, RunLogDigest: digest, RunLog: "/r"})
	w.push("web-2", "web", 2)
	w.begin("web-2", "web", 1, 2)
	w.append("web-2", "web", 1, eventlog.Failed{Commit: commit(2), PreviousCommit: commit(1), Step: "build", ExitCode: &code, Error: "exit status 3", OutputTail: "<b>\x1b[31m\u202eno", Steps: steps[:1], DurationMS: 8})
	w.append("web-2", "", 1, eventlog.Redelivered{Action: eventlog.ActionRetried, Detail: "it had failed", ReceivedAt: time.Now().UTC(), Entry: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
		Deployments: []eventlog.Assignment{{Deployment: "web", Attempt: 2, Order: order(2)}}})
	w.begin("web-2", "web", 2, 2)
	w.append("web-2", "web", 2, eventlog.Interrupted{Detail: "the worker was gone", Then: "retry", Step: "build"})
	w.begin("web-2", "web", 3, 2)
	w.append("web-2", "web", 3, eventlog.Canceled{Reason: "the wrong branch"})
	path := filepath.Join(w.source.Config.StateDir, "runs", "web", handlers.RunLogName("web-2", 3))
	run, err := handlers.OpenRunLog(path, nil, handlers.RunLogOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	run.StepStarted("build")
	if err := run.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.append("hold-1", "web", 1, eventlog.Frozen{Until: time.Now().Add(time.Hour).UTC(), Reason: "the finals"})

	w.push("api-1", "api", 3)
	w.begin("api-1", "api", 1, 3)
	w.append("api-1", "api", 1, eventlog.Deployed{Commit: commit(3), DurationMS: 14})
	w.append("hold-2", "api", 1, eventlog.Pinned{Commit: commit(3), Reason: "slow"})
	w.append("hold-3", "api", 1, eventlog.Unpinned{Reason: "it was fixed"})
	w.append("hold-4", "api", 1, eventlog.Pinned{Commit: commit(3), Reason: "slow again"})
	w.append("hold-5", "", 1, eventlog.Frozen{Reason: "all"})
	w.append("hold-6", "", 1, eventlog.Thawed{Reason: "over"})
	w.push("api-2", "api", 4)
	w.begin("api-2", "api", 1, 4)
	w.append("api-2", "api", 1, eventlog.Failed{Commit: commit(4), Step: "build", Signal: "SIGKILL", Error: "killed", DurationMS: 8})
	w.push("api-3", "api", 5)
	w.append("api-3", "api", 1, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "unpin it", Commit: commit(5)})
	w.append("api-2", "", 2, eventlog.Replayed{Reason: "the registry was down", Deployments: []eventlog.Assignment{{Deployment: "api", Attempt: 2, Order: order(4)}}})

	other := strings.Repeat("f", 64)
	w.append("ping-1", "", 1, eventlog.Received{Event: "ping", ReceivedAt: time.Now().UTC(), Source: eventlog.SourceGitHub, Entry: "e", PayloadDigest: other},
		eventlog.Voided{Reason: eventlog.ReasonPing, Detail: "no push"})
	w.append("ping-1", "", 1, eventlog.Redacted{Reason: "a token", PayloadDigests: []string{other}})
}

// description is docs/openapi.yaml.
type description struct {
	t      *testing.T
	doc    *openapi3.T
	router routers.Router
}

func describe(t *testing.T) description {
	t.Helper()
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(docs.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(loader.Context); err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return description{t, doc, router}
}

// check compares a request and its answer with the description.
func (d description) check(path string, code int, body []byte) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, "http://127.0.0.1:3401"+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		d.t.Errorf("%s: %v", path, err)
		return
	}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route}
	if code == http.StatusOK {
		if err := openapi3filter.ValidateRequest(d.t.Context(), in); err != nil {
			d.t.Errorf("%s: %v", path, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: code, Header: http.Header{"Content-Type": {"application/json"}},
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(d.t.Context(), out.SetBodyBytes(body)); err != nil {
		d.t.Errorf("%s answers %d\n%s\n%v", path, code, body, err)
	}
}

func TestAPI_AnswersAsDescribed(t *testing.T) {
	t.Parallel()
	d, w := describe(t), newWorld(t)
	w.live()
	w.start()
	ask := func(path string) []byte {
		code, body := w.get(Prefix + path)
		if code != http.StatusOK {
			t.Errorf("%s answers %d %s", path, code, body)
		}
		d.check(Prefix+path, code, body)
		return body
	}
	var all struct{ Deployments []answer.StatusRow }
	decode(t, ask("deployments"), &all)
	// Each optional part is there, or a field of it could be left out of the description.
	var api, doc, web = all.Deployments[0], all.Deployments[1], all.Deployments[2]
	if web.Status != "running" || web.Progress == nil || web.Frozen == nil || web.Frozen.Until.IsZero() || web.Commit == nil {
		t.Errorf("web is %+v", web)
	}
	if api.Pinned == nil || api.Held == nil || api.Failure == nil || api.Failure.Signal == "" || api.Pending != 1 || api.WaitsFor == "" || api.Last == nil {
		t.Errorf("api is %+v", api)
	}
	if doc.Status != "disabled" || doc.Commit != nil {
		t.Errorf("docs is %+v", doc)
	}
	for _, row := range all.Deployments {
		var one answer.StatusRow
		decode(t, ask("deployments/"+row.Slug), &one)
		if row.Progress, one.Progress = nil, nil; !reflect.DeepEqual(one, row) {
			t.Errorf("alone %s is %+v, among all %+v", row.Slug, one, row)
		}
		ask("deployments/" + row.Slug + "/attempts")
	}
	for id, verdict := range map[string]string{
		"web-1": "Delivery web-1 deployed 000000000000 to web, which is what is live now.", "web-2": "Delivery web-2 is deploying 000000000000 to web now, and is being ended: canceled by octocat: the wrong branch.",
		"api-1":  "Delivery api-1 deployed 000000000000 to api; path holds commit 000000000000; deployed last was 000000000000, by api-1.",
		"api-2":  "Delivery api-2 waits to deploy 000000000000 to api, which does not begin: nothing works here.",
		"api-3":  "Delivery api-3 did not deploy 000000000000 to api (pinned); path holds commit 000000000000; deployed last was 000000000000, by api-1.",
		"ping-1": "Delivery ping-1 did not deploy (ping): no push.", "hold-1": "hold-1 is no delivery, but what octocat asked for.",
	} {
		var a deliveryAnswer
		if decode(t, ask("deliveries/"+id), &a); a.Verdict != verdict {
			t.Errorf("of %s it says %s", id, a.Verdict)
		}
	}
	var events eventsAnswer
	decode(t, ask("events?limit=1000"), &events)
	d.checkEvents(events.Events)
	ask("events?type=voided,failed&deployment=api&delivery=api-2&after=1&limit=5")
	for _, path := range []string{"deployments/no", "deliveries/no", "events?limit=0", "deployments?x=1"} {
		code, body := w.get(Prefix + path)
		d.check(Prefix+path, code, body)
	}
	if code, body := w.get(Prefix + "openapi.yaml"); code != http.StatusOK || string(body) != string(docs.OpenAPI) {
		t.Errorf("the description is answered %d", code)
	}
}

// A field that no answer of the tests has could be left out of the description, and so
// could one that an answer no longer has be left in it.
func TestOpenAPI_DescribesEveryField(t *testing.T) {
	t.Parallel()
	d := describe(t)
	d.fields("problem", reflect.TypeFor[problem](), d.doc.Components.Responses["Problem"].Value.Content["application/json"].Schema.Value)
	for path, of := range map[string]reflect.Type{
		"/deployments/{slug}": reflect.TypeFor[answer.StatusRow](), "/deployments/{slug}/attempts": reflect.TypeFor[attemptsAnswer](),
		"/deliveries/{id}": reflect.TypeFor[deliveryAnswer](), "/events": reflect.TypeFor[eventsAnswer](),
	} {
		d.fields(path, of, d.doc.Paths.Value(path).Get.Responses.Value("200").Value.Content["application/json"].Schema.Value)
	}
}

// fields compares the fields of a type, and of those in it, with the properties of a schema.
func (d description) fields(at string, of reflect.Type, schema *openapi3.Schema) {
	d.t.Helper()
	for ; of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice && schema.Items != nil; of = of.Elem() {
		if of.Kind() == reflect.Slice {
			schema = schema.Items.Value
		}
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return
	}
	described := openapi3.Schemas{}
	for _, part := range append(openapi3.SchemaRefs{schema.NewRef()}, schema.AllOf...) {
		maps.Copy(described, part.Value.Properties)
	}
	for _, f := range reflect.VisibleFields(of) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "" || name == "-" {
			continue
		}
		if property := described[name]; property == nil {
			d.t.Errorf("%s: %s is not described", at, name)
		} else {
			d.fields(at+" "+name, f.Type, property.Value)
		}
		delete(described, name)
	}
	for name := range described {
		d.t.Errorf("%s: %s is described, and no answer has it", at, name)
	}
}

// checkEvents compares each event's data with the schema of its type, which all have.
func (d description) checkEvents(events []eventlog.Event) {
	d.t.Helper()
	seen := map[eventlog.Type]bool{}
	for _, e := range events {
		seen[e.Type] = true
		var data any
		decode(d.t, e.Data, &data)
		if err := d.doc.Components.Schemas[string(e.Type)].Value.VisitJSON(data); err != nil {
			d.t.Errorf("%s: %s: %v", e.Type, e.Data, err)
		}
	}
	for _, of := range []struct {
		name string
		want []string
	}{{"EventType", texts(eventlog.Types())}, {"Reason", texts(eventlog.Reasons())}, {"Source", texts(eventlog.Sources())}} {
		var named []string
		for _, v := range d.doc.Components.Schemas[of.name].Value.Enum {
			named = append(named, fmt.Sprint(v))
		}
		slices.Sort(named)
		if slices.Sort(of.want); !slices.Equal(named, of.want) {
			d.t.Errorf("%s is %q, the log has %q", of.name, named, of.want)
		}
	}
	for _, t := range eventlog.Types() {
		if !seen[t] {
			d.t.Errorf("no event is of type %s", t)
		}
	}
	// What the log may hold, with every field set.
	golden, err := filepath.Glob("../../eventlog/testdata/golden/*.json")
	if err != nil || len(golden) < len(eventlog.Types()) {
		d.t.Fatalf("%d golden files: %v", len(golden), err)
	}
	for _, path := range golden {
		raw, err := os.ReadFile(path)
		if err != nil {
			d.t.Fatal(err)
		}
		var data any
		decode(d.t, raw, &data)
		name, _, _ := strings.Cut(filepath.Base(path), ".")
		name, _, _ = strings.Cut(name, "-")
		if err := d.doc.Components.Schemas[name].Value.VisitJSON(data); err != nil {
			d.t.Errorf("%s: %v", path, err)
		}
	}
}

func texts[T ~string](list []T) (s []string) {
	for _, v := range list {
		s = append(s, string(v))
	}
	return s
}

func decode(t *testing.T, raw []byte, to any) {
	t.Helper()
	if err := json.Unmarshal(raw, to); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
}

func TestAPI_RefusesWhatItCannotAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("push-abc1", "web", 1)
	w.push("push-abc2", "web", 2)
	w.push("retired-1", "retired", 3) // of a deployment that is not configured any more
	w.start()
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"nothing":                                       {404, "there is no such path"},
		"deployments/":                                  {404, "there is no such path"},
		"deployments/wbe":                               {404, `unknown deployment \"wbe\"; one of: api, docs, web`},
		"deployments/retired":                           {404, "unknown deployment"},
		"deployments/retired/attempts":                  {200, `"delivery_id":"retired-1"`},
		"deployments/wbe/attempts":                      {404, "unknown deployment"},
		"deployments?at=1":                              {400, `unknown parameter \"at\"; this path takes none`},
		"deployments?%zz":                               {400, "the query cannot be read"},
		"deployments/web?a;b":                           {400, "the query cannot be read"},
		"deployments/web/attempts?limit":                {400, "limit is empty"},
		"deployments/web/attempts?limit=201&before=1.1": {400, `limit takes a whole number from 1 to 200, not \"201\"`},
		"deployments/web/attempts?before=7":             {400, "before: "},
		"deployments/web/attempts?before=999.1":         {200, `"attempts":[{`},
		"deployments/web/attempts?before=1.1":           {200, `"attempts":[]`},
		"deliveries/push-abc":                           {409, `"candidates":["push-abc1  `},
		"deliveries/push-abc1":                          {200, `"verdict":"Delivery push-abc1 waits to deploy`},
		"deliveries/retired":                            {200, `"delivery_id":"retired-1"`},
		"deliveries/push-":                              {404, "at least 6 characters"},
		"deliveries/%00%ff":                             {404, "has no delivery"},
		"deliveries/..%2f..":                            {404, "has no delivery"},
		"events?limit=1001":                             {400, "limit takes a whole number from 1 to 1000"},
		"events?limit=1&limit=2":                        {400, "limit is given 2 times"},
		"events?after=-1":                               {400, "after takes a whole number from 0"},
		"events?after=1e3":                              {400, "after takes a whole number"},
		"events?after=99999999999999999999":             {400, "after takes a whole number"},
		"events?after=1000":                             {200, `"events":[],"head":6`},
		"events?type=deploid":                           {400, `unknown event type \"deploid\"; one or several, separated by commas, of: received, `},
		"events?deployment=wbe":                         {404, "unknown deployment"},
		"events?deployment=docs":                        {200, `"events":[]`},
		"events?deployment=retired":                     {200, `"type":"forwarded"`},
		"events?delivery=push-abc":                      {409, "give more characters"},
		"events?delivery=push-abc3":                     {404, "has no delivery"},
		"events?since=1d":                               {400, "one of: after, type, deployment, delivery, limit"},
	} {
		if code, body := w.get(Prefix + path); code != want.code || !strings.Contains(string(body), want.text) {
			t.Errorf("%s answers %d %s", path, code, body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut, http.MethodOptions, http.MethodTrace} {
		resp := w.request(method, Prefix+"deployments", nil)
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s answers %s, with Allow %q", method, resp.Status, resp.Header.Get("Allow"))
		}
	}
	if code, body := w.do(http.MethodHead, Prefix+"deployments", nil); code != http.StatusOK || len(body) > 0 {
		t.Errorf("HEAD answers %d %s", code, body)
	}
	for header, code := range map[string]int{"x": 400, "-1": 400, "7 ": 200} {
		if got, body := w.do(http.MethodHead, Prefix+"events", http.Header{"Accept": {"text/event-stream"}, "Last-Event-Id": {header}}); got != code {
			t.Errorf("Last-Event-ID %q answers %d %s", header, got, body)
		}
	}
	if code, body := w.do(http.MethodGet, Prefix+"events?limit=3", http.Header{"Accept": {"text/event-stream"}}); code != 400 {
		t.Errorf("a stream of three answers %d %s", code, body)
	}
	w.source.Pool.Close()
	code, body := w.get(Prefix + "deployments")
	if code != http.StatusServiceUnavailable || !strings.Contains(string(body), "/readyz says what is wrong") {
		t.Errorf("without the database it answers %d %s", code, body)
	}
}

// Whoever follows the next of each page has seen everything once.
func TestAPI_PagesHoldEverythingOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.live()
	w.start()
	pages := func(path, list string) (found []string) {
		for path != "" {
			code, body := w.get(path)
			var a struct {
				Events, Attempts []json.RawMessage
				Next             string
			}
			if decode(t, body, &a); code != http.StatusOK {
				t.Fatalf("%s answers %d %s", path, code, body)
			}
			for _, row := range append(a.Events, a.Attempts...) {
				found = append(found, string(row))
			}
			path = a.Next
		}
		return found
	}
	for _, path := range []string{"events?after=0", "events?after=0&type=" + url.QueryEscape("started,voided"), "events?after=0&deployment=web", "deployments/web/attempts?", "deployments/api/attempts?"} {
		whole := pages(Prefix+path+"&limit=200", path)
		for _, limit := range []string{"1", "2", "3"} {
			if got := pages(Prefix+path+"&limit="+limit, path); !slices.Equal(got, whole) || len(got) < 3 {
				t.Errorf("%s in pages of %s is\n%s\nand at once\n%s", path, limit, strings.Join(got, "\n"), strings.Join(whole, "\n"))
			}
		}
	}
}

// What senders wrote stays data: JSON that neither drives a terminal nor ends an event.
func TestAPI_TextOfSendersIsHarmless(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	s := w.stream("", "")
	hostile := "\u009b31m\u202e</script>\r\n\ndata: x\n\nid: 99\u2028"
	w.append("hostile-1", "web", 1, received(1, "web"), eventlog.Voided{Reason: eventlog.ReasonMalformed, Detail: hostile})
	s.events(1)
	e, _ := s.event()
	var data eventlog.Voided
	if decode(t, e.Data, &data); data.Detail != hostile || e.Position != 2 {
		t.Errorf("event %d says %q", e.Position, data.Detail)
	}
	_, body := w.get(Prefix + "events")
	for _, r := range strings.TrimSuffix(string(body), "\n") {
		if r < ' ' || r > '~' {
			t.Errorf("an answer has %q: %s", r, body)
		}
	}
}
