package router

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

const (
	sha     = "0123456789abcdef0123456789abcdef01234567"
	zeros   = "0000000000000000000000000000000000000000"
	sha256s = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// The rules that most tests decide by.
var rules = []Rule{
	{Slug: "web", Repository: "octo/app", Branch: "main", Enabled: true, ConfigDigest: "d-web"},
	{Slug: "docs", Repository: "Octo/App", Branch: "main", Enabled: true, ConfigDigest: "d-docs"},
	{Slug: "staging", Repository: "octo/app", Branch: "staging", Enabled: false, ConfigDigest: "d-staging"},
	{Slug: "api", Repository: "octo/api", Branch: "--upload-pack=x", Enabled: true, ConfigDigest: "d-api"},
	{Slug: "mixed", Repository: "octo/mixed", Branch: "main", Enabled: true, ConfigDigest: "d-mixed"},
	{Slug: "off", Repository: "octo/mixed", Branch: "main", Enabled: false, ConfigDigest: "d-off"},
}

// body is a push as GitHub sends it, in outline.
func body(ref, after, repository string) string {
	return fmt.Sprintf(`{"ref":%q,"before":%q,"after":%q,"deleted":false,"head_commit":{"id":%q},`+
		`"repository":{"id":7,"full_name":%q},"pusher":{"name":"pat"},"sender":{"login":"sam"}}`, ref, zeros, after, after, repository)
}

func push(body string) delivery.Delivery {
	return delivery.Delivery{
		ID: "d-1", Event: "push", ContentType: "application/json", Source: "github", HookID: "99",
		ReceivedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Salt: []byte("salt"), Body: []byte(body),
	}
}

func event(name, body string) delivery.Delivery {
	d := push(body)
	d.Event = name
	return d
}

func form(values url.Values) delivery.Delivery {
	d := push(values.Encode())
	d.ContentType = "application/x-www-form-urlencoded; charset=utf-8"
	return d
}

func rawForm(raw string) delivery.Delivery {
	d := push(raw)
	d.ContentType = "application/x-www-form-urlencoded"
	return d
}

func command(slug, body string) delivery.Delivery {
	d := push(body)
	d.Source, d.Deployment, d.Actor, d.Forced = "cli", slug, "root@host", true
	return d
}

func TestDecideForwards(t *testing.T) {
	tests := []struct {
		name   string
		d      delivery.Delivery
		to     []string
		branch string
		commit string
		actor  string
		rule   string
	}{
		{"two deployments of one branch", push(body("refs/heads/main", sha, "octo/app")),
			[]string{"docs", "web"}, "main", sha, "sam", "octo/app refs/heads/main -> docs"},
		{"repository in another case", push(body("refs/heads/main", sha, "OCTO/aPP")),
			[]string{"docs", "web"}, "main", sha, "sam", "OCTO/aPP refs/heads/main -> docs"},
		{"SHA-256 repository", push(body("refs/heads/main", sha256s, "octo/app")),
			[]string{"docs", "web"}, "main", sha256s, "sam", "octo/app refs/heads/main -> docs"},
		{"hash in capitals", push(body("refs/heads/main", strings.ToUpper(sha), "octo/app")),
			[]string{"docs", "web"}, "main", sha, "sam", "octo/app refs/heads/main -> docs"},
		{"branch that looks like an option", push(body("refs/heads/--upload-pack=x", sha, "octo/api")),
			[]string{"api"}, "--upload-pack=x", sha, "sam", "octo/api refs/heads/--upload-pack=x -> api"},
		{"disabled ones are passed over", push(body("refs/heads/main", sha, "octo/mixed")),
			[]string{"mixed"}, "main", sha, "sam", "octo/mixed refs/heads/main -> mixed"},
		{"form", form(url.Values{"payload": {body("refs/heads/main", sha, "octo/mixed")}, "x": {"y"}}),
			[]string{"mixed"}, "main", sha, "sam", "octo/mixed refs/heads/main -> mixed"},
		{"content type is not trusted beyond form", func() delivery.Delivery {
			d := push(body("refs/heads/main", sha, "octo/mixed"))
			d.ContentType = "text/plain; ;;"
			return d
		}(), []string{"mixed"}, "main", sha, "sam", "octo/mixed refs/heads/main -> mixed"},
		{"pusher where there is no sender", push(`{"ref":"refs/heads/main","after":"` + sha + `","repository":{"full_name":"octo/mixed"},"pusher":{"name":"pat"}}`),
			[]string{"mixed"}, "main", sha, "pat", "octo/mixed refs/heads/main -> mixed"},
		{"sender of a wrong type", push(`{"ref":"refs/heads/main","after":"` + sha + `","repository":{"full_name":"octo/mixed"},"sender":7,"pusher":[]}`),
			[]string{"mixed"}, "main", sha, "unknown", "octo/mixed refs/heads/main -> mixed"},
		{"deleted of a wrong type is not deleted", push(`{"ref":"refs/heads/main","deleted":"true","after":"` + sha + `","repository":{"full_name":"octo/mixed"}}`),
			[]string{"mixed"}, "main", sha, "unknown", "octo/mixed refs/heads/main -> mixed"},
		{"a delivery of GitHub's cannot name a deployment", func() delivery.Delivery {
			d := push(body("refs/heads/main", sha, "octo/mixed"))
			d.Deployment, d.Actor, d.Forced = "web", "root", true
			return d
		}(), []string{"mixed"}, "main", sha, "sam", "octo/mixed refs/heads/main -> mixed"},
		{"command", command("web", body("refs/heads/main", sha, "octo/app")),
			[]string{"web"}, "main", sha, "root@host", "deploy command"},
		{"command on another branch", command("web", body("refs/heads/feature", sha, "octo/app")),
			[]string{"web"}, "feature", sha, "root@host", "deploy command"},
		{"command on a tag is fetched beside the branch", command("web", body("refs/tags/v1", sha, "octo/app")),
			[]string{"web"}, "main", sha, "root@host", "deploy command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Decide(tt.d, rules)
			if got.Void != nil {
				t.Fatalf("voided: %s (%s)", got.Void.Reason, got.Void.Detail)
			}
			var to []string
			for _, a := range got.Forwards {
				to = append(to, a.Deployment)
				if a.Attempt != 1 || a.Branch != tt.branch || a.Commit != tt.commit || a.ConfigDigest != "d-"+a.Deployment {
					t.Errorf("assignment %+v", a)
				}
				if a.Forced != (tt.d.Source == "cli") {
					t.Errorf("forced = %v", a.Forced)
				}
			}
			if !slices.Equal(to, tt.to) || got.Actor != tt.actor || got.Forwards[0].Rule != tt.rule {
				t.Errorf("to %q by %q, rule %q; want %q by %q, rule %q", to, got.Actor, got.Forwards[0].Rule, tt.to, tt.actor, tt.rule)
			}
			if got.Received.Commit != tt.commit {
				t.Errorf("received commit %q", got.Received.Commit)
			}
		})
	}
}

// Only a push that says that it moved its branch forward is taken at its word.
func TestDecideBefore(t *testing.T) {
	other := strings.Repeat("AB", 20)
	from := strings.ToLower(other)
	tests := map[string]struct{ keys, before, forcedFrom string }{
		"forward":            {`"before":"` + other + `","forced":false`, from, ""},
		"forced":             {`"before":"` + other + `","forced":true`, "", from},
		"not told":           {`"before":"` + other + `"`, "", from},
		"forced, wrong type": {`"before":"` + other + `","forced":"false"`, "", from},
		"a new branch":       {`"before":"` + zeros + `","forced":false`, "", zeros},
		"no before":          {`"forced":false`, "", ""},
		"not a hash":         {`"before":"--main","forced":false`, "", ""},
		"before, wrong type": {`"before":["` + other + `"],"forced":false`, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := push(`{"ref":"refs/heads/main","after":"` + sha + `","repository":{"full_name":"octo/mixed"},` + tt.keys + `}`)
			if got := Decide(d, rules); len(got.Forwards) != 1 || got.Forwards[0].Before != tt.before || got.Forwards[0].ForcedFrom != tt.forcedFrom {
				t.Errorf("got %+v, want before %q, forced from %q", got.Forwards, tt.before, tt.forcedFrom)
			}
			d.Source, d.Deployment = "cli", "mixed"
			if got := Decide(d, rules); len(got.Forwards) != 1 || got.Forwards[0].Before != "" || got.Forwards[0].ForcedFrom != "" {
				t.Errorf("by hand: %+v", got.Forwards)
			}
		})
	}
}

// What recovery has found goes to those of the branch that it names, in its own name. A
// sender who says the same of a push is not believed.
func TestDecide_FoundTipIsForThoseThatItNames(t *testing.T) {
	d := push(strings.Replace(body("refs/heads/main", sha, "octo/app"), "{", `{"deployments":["web","api"],`, 1))
	d.HookID, d.Actor = "", "recovery"
	for source, want := range map[string]string{"recovery": "[web] recovery", "github": "[docs web] sam"} {
		d.Source = source
		got := Decide(d, rules)
		var to []string
		for _, a := range got.Forwards {
			to = append(to, a.Deployment)
		}
		if line := fmt.Sprint(to, " ", got.Actor); line != want {
			t.Errorf("%s: %s, want %s", source, line, want)
		}
	}
	for _, only := range []string{`["gone"]`, `"web"`, `null`} {
		d.Source, d.Body = "recovery", []byte(strings.Replace(body("refs/heads/main", sha, "octo/app"), "{", `{"deployments":`+only+`,`, 1))
		if got := Decide(d, rules); got.Void == nil || got.Void.Reason != eventlog.ReasonNoDeployment {
			t.Errorf("%s: %+v", only, got)
		}
	}
}

func TestDecideVoids(t *testing.T) {
	deep := strings.Repeat(`{"ref":`, 20000) + "1" + strings.Repeat("}", 20000)
	tests := []struct {
		name   string
		d      delivery.Delivery
		rules  []Rule
		reason eventlog.Reason
		detail string // exact, or a prefix where it ends in *
	}{
		{"ping", event("ping", `{"zen":"Keep it","hook_id":1,"repository":{"full_name":"octo/app"}}`), rules,
			"ping", "a ping only tests the webhook; a push would be deployed"},
		{"ping without a repository", event("ping", `{"zen":"Keep it"}`), rules, "ping", "a ping*"},
		{"ping without a body", event("ping", ``), rules, "ping", "a ping*"},
		{"another event", event("issues", body("refs/heads/main", sha, "octo/app")), rules,
			"event_not_handled", "event issues is not handled; only push events are deployed"},
		{"another event, broken body", event("issues", `{"ref`), rules, "event_not_handled", "event issues*"},
		{"no event", event("", body("refs/heads/main", sha, "octo/app")), rules, "event_not_handled", `event "" is not*`},
		{"event with escapes", event("x\x1b[31m\n", ``), rules, "event_not_handled", `event "x\x1b[31m\n" is not*`},
		{"events are told apart by case", event("Push", body("refs/heads/main", sha, "octo/app")), rules, "event_not_handled", "event Push*"},

		{"tag", push(body("refs/tags/v1", sha, "octo/app")), rules,
			"not_a_branch", "refs/tags/v1 is a tag; only pushes to refs/heads/... are deployed"},
		{"deleted tag", push(body("refs/tags/v1", zeros, "octo/app")), rules, "not_a_branch", "refs/tags/v1 is a tag*"},
		{"note", push(body("refs/notes/commits", sha, "octo/app")), rules, "not_a_branch", "refs/notes/commits is not a branch;*"},
		{"short ref", push(body("main", sha, "octo/app")), rules, "not_a_branch", "main is not a branch;*"},

		{"deleted branch", push(`{"ref":"refs/heads/main","deleted":true,"after":"` + zeros + `","head_commit":null,"repository":{"full_name":"octo/app"}}`), rules,
			"branch_deleted", `the push deleted branch "main", so there is no commit to deploy; a push of a commit to it would be looked at`},
		{"zeros without deleted", push(body("refs/heads/main", zeros, "octo/app")), rules, "branch_deleted", "the push deleted*"},
		{"deleted without after", push(`{"ref":"refs/heads/main","deleted":true,"after":null,"repository":{"full_name":"octo/app"}}`), rules, "branch_deleted", "the push deleted*"},

		{"branch without a deployment", push(body("refs/heads/dev", sha, "octo/app")), rules,
			"no_deployment", `no deployment is configured for octo/app at branch "dev"; octo/app deploys from: main (docs), staging (staging, disabled), main (web)`},
		{"branches are told apart by case", push(body("refs/heads/Main", sha, "octo/app")), rules, "no_deployment", `no deployment is configured for octo/app at branch "Main";*`},
		{"repository without a deployment", push(body("refs/heads/main", sha, "octo/none")), rules,
			"no_deployment", `no deployment is configured for octo/none at branch "main"; repositories that are deployed: Octo/App, octo/api, octo/app, octo/mixed`},
		{"no rules", push(body("refs/heads/main", sha, "octo/app")), nil,
			"no_deployment", `no deployment is configured for octo/app at branch "main"; no deployment is configured at all`},
		{"merge queue", push(body("refs/heads/gh-readonly-queue/main/pr-1-abc", sha, "octo/app")), rules,
			"no_deployment", `no deployment is configured for octo/app at branch "gh-readonly-queue/main/pr-1-abc", a temporary branch of GitHub's merge queue (what is merged comes as a push of its own); octo/app deploys from: *`},
		{"a prefix of a branch is not the branch", push(body("refs/heads/main/x", sha, "octo/app")), rules, "no_deployment", "*"},
		{"ref with a command", push(body("refs/heads/;$(id)", sha, "octo/app")), rules, "no_deployment", `no deployment is configured for octo/app at branch ";$(id)";*`},
		{"ref with control characters", push(`{"ref":"refs/heads/a\u001b[2J\nb\u0000","after":"` + sha + `","repository":{"full_name":"octo/app"}}`), rules,
			"no_deployment", `no deployment is configured for octo/app at branch "a\x1b[2J\nb\x00";*`},
		{"repository with a Kelvin sign", push(body("refs/heads/main", sha, "octo/\u212a")),
			[]Rule{{Slug: "k", Repository: "octo/k", Branch: "main", Enabled: true}}, "no_deployment", "no deployment is configured for \"octo/\u212a\"*"},
		{"repository with an escape", push(`{"ref":"refs/heads/main","after":"` + sha + `","repository":{"full_name":"o/\u001b[0m"}}`), rules,
			"no_deployment", `no deployment is configured for "o/\x1b[0m" at*`},

		{"all disabled", push(body("refs/heads/staging", sha, "octo/app")), rules,
			"deployment_disabled", `staging deploys octo/app at branch "staging" but is disabled; it would run with enabled = true`},

		{"empty object", push(`{}`), rules, "malformed", "the push has no ref; a text such as refs/heads/main is expected"},
		{"array", push(`[]`), rules, "malformed", "the body is a JSON array; an object is expected"},
		{"string", push(`"push"`), rules, "malformed", "the body is a JSON string; an object is expected"},
		{"number", push(`7`), rules, "malformed", "the body is a JSON number; an object is expected"},
		{"null", push(` null `), rules, "malformed", "the body is a JSON null; an object is expected"},
		{"nothing", push(``), rules, "malformed", "the body is not JSON: unexpected end of JSON input"},
		{"truncated", push(body("refs/heads/main", sha, "octo/app")[:80]), rules, "malformed", "the body is not JSON: unexpected end of JSON input"},
		{"two documents", push(body("refs/heads/main", sha, "octo/app") + "{}"), rules, "malformed", "the body is not JSON: *"},
		{"invalid UTF-8", push(strings.Replace(body("refs/heads/main", sha, "octo/app"), "pat", "p\xff", 1)), rules, "malformed", "the body is not valid UTF-8, as JSON must be"},
		{"deep nesting", push(deep), rules, "malformed", "the body is not JSON: *"},
		{"ref of a wrong type", push(`{"ref":7,"after":"` + sha + `","repository":{"full_name":"octo/app"}}`), rules, "malformed", "the push has no ref;*"},
		{"ref too long", push(body("refs/heads/"+strings.Repeat("x", 256), sha, "octo/app")), rules, "malformed", "the ref is 267 bytes long; no more than 266 are expected"},
		{"ref of no branch", push(body("refs/heads/", sha, "octo/app")), rules, "malformed", "the ref names no branch;*"},
		{"no repository", push(`{"ref":"refs/heads/main","after":"` + sha + `"}`), rules, "malformed", "the push has no repository.full_name;*"},
		{"repository is null", push(`{"ref":"refs/heads/main","after":"` + sha + `","repository":null}`), rules, "malformed", "the push has no repository.full_name;*"},
		{"repository name of a wrong type", push(`{"ref":"refs/heads/main","after":"` + sha + `","repository":{"full_name":["octo/app"]}}`), rules, "malformed", "the push has no repository.full_name;*"},
		{"no after", push(`{"ref":"refs/heads/main","repository":{"full_name":"octo/app"}}`), rules, "malformed", `after is ""; a hash of 40 or 64 hexadecimal digits is expected`},
		{"short hash", push(body("refs/heads/main", sha[:39], "octo/app")), rules, "malformed", "after is \"" + sha[:39] + "\";*"},
		{"option for a hash", push(body("refs/heads/main", "--upload-pack=touch /tmp/x; aaaaaaaaaaaa", "octo/app")), rules, "malformed", "after is *"},
		{"not quite hex", push(body("refs/heads/main", sha[:39]+"g", "octo/app")), rules, "malformed", "after is *"},
		{"form without a payload", form(url.Values{"x": {"y"}}), rules, "malformed", "the form has no field named payload, which would hold the event"},
		{"form with bad escapes", rawForm("payload=%zz"), rules, "malformed", "the body is not a well-formed form;*"},
		{"form with a broken payload", form(url.Values{"payload": {"{"}}), rules, "malformed", "the body is not JSON: *"},
		{"JSON that says that it is a form", rawForm(body("refs/heads/main", sha, "octo/app")), rules, "malformed", "*"},

		{"command for nobody", command("nope", body("refs/heads/main", sha, "octo/app")), rules,
			"no_deployment", `there is no deployment "nope"; configured are: api, docs, mixed, off (disabled), staging (disabled), web`},
		{"command without any", command("web", body("refs/heads/main", sha, "octo/app")), nil, "no_deployment", `there is no deployment "web"; no deployment is configured at all`},
		{"command for a disabled one", command("off", body("refs/heads/main", sha, "octo/mixed")), rules,
			"deployment_disabled", "deployment off is disabled; it would run with enabled = true"},
		{"command for another repository", command("web", body("refs/heads/main", sha, "octo/old")), rules,
			"no_deployment", "deployment web deploys octo/app, but the command was given for octo/old; run the deploy command again with today's configuration"},
		{"command without a commit", command("web", body("refs/heads/main", zeros, "octo/app")), rules, "branch_deleted", "refs/heads/main names no commit, so there is nothing to deploy"},
		{"command of nothing", command("web", ""), rules, "malformed", "the body is not JSON: *"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Decide(tt.d, tt.rules)
			if len(got.Forwards) > 0 {
				t.Fatalf("forwarded: %+v", got.Forwards)
			}
			if got.Void.Reason != tt.reason {
				t.Errorf("reason %q, want %q", got.Void.Reason, tt.reason)
			}
			want, isPrefix := strings.CutSuffix(tt.detail, "*")
			if got.Void.Detail != tt.detail && !(isPrefix && strings.HasPrefix(got.Void.Detail, want)) {
				t.Errorf("detail\n%s\nwant\n%s", got.Void.Detail, tt.detail)
			}
			wellFormed(t, got)
		})
	}
}

func TestDecideRecordsWhatCameIn(t *testing.T) {
	d := push(body("refs/heads/main", sha, "octo/app"))
	got := Decide(d, rules).Received
	want := eventlog.Received{
		Event: "push", Ref: "refs/heads/main", Repository: "octo/app", Commit: sha, HookID: "99",
		ReceivedAt: d.ReceivedAt, PayloadDigest: d.Digest(), PayloadSize: int64(len(d.Body)),
		ContentType: "application/json", Source: eventlog.SourceGitHub,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if deleted := Decide(push(body("refs/heads/main", zeros, "octo/app")), rules).Received; deleted.Commit != "" {
		t.Errorf("a deletion has commit %q", deleted.Commit)
	}
}

func TestDecideBoundsWhatSendersChoose(t *testing.T) {
	long := strings.Repeat("\u00e9", 5000)
	d := push(fmt.Sprintf(`{"ref":"refs/heads/main","after":%q,"repository":{"full_name":%q},"sender":{"login":%q}}`, long, long, long))
	d.HookID, d.ContentType = long, long+"\xff"
	got := Decide(d, rules)
	wellFormed(t, got)
	if !strings.HasSuffix(got.Actor, "\u00e9...") {
		t.Errorf("actor %q", got.Actor)
	}
	wellFormed(t, Decide(event(long+"\xff\xfe", ""), rules))
}

func TestDecideOnTheLargestBody(t *testing.T) {
	large := func(fill byte) delivery.Delivery {
		head, tail := body("refs/heads/main", sha, "octo/app"), `,"commits":["`
		head = strings.TrimSuffix(head, "}") + tail
		return push(head + string(bytes.Repeat([]byte{fill}, delivery.MaxBody-len(head)-3)) + `"]}`)
	}
	if got := Decide(large('x'), rules); len(got.Forwards) != 2 || got.Received.PayloadSize != delivery.MaxBody {
		t.Errorf("void %+v, size %d", got.Void, got.Received.PayloadSize)
	}
	if got := Decide(large(1), rules); got.Void == nil || got.Void.Reason != eventlog.ReasonMalformed {
		t.Errorf("control characters in a string: %+v", got.Void)
	}
}

// wellFormed checks what holds for every decision.
func wellFormed(t rapid.TB, d Decision) {
	t.Helper()
	if (len(d.Forwards) > 0) == (d.Void != nil) {
		t.Fatalf("%d forwards and void %+v", len(d.Forwards), d.Void)
	}
	if d.Actor == "" || len(d.Actor) > maxText {
		t.Fatalf("actor %q", d.Actor)
	}
	r := d.Received
	texts := []string{d.Actor, r.Event, r.Ref, r.Repository, r.Commit, r.HookID, r.ContentType, string(r.Source)}
	if d.Void != nil {
		if d.Void.Detail == "" || len(d.Void.Detail) > maxDetail {
			t.Fatalf("detail of %d bytes", len(d.Void.Detail))
		}
		for _, c := range d.Void.Detail {
			if c < ' ' || c == 0x7f {
				t.Fatalf("control character in detail %q", d.Void.Detail)
			}
		}
		texts = append(texts, d.Void.Detail)
	}
	for i, a := range d.Forwards {
		if a.Attempt != 1 || !names.Commit(a.Commit) || a.Branch == "" {
			t.Fatalf("assignment %+v", a)
		}
		if i > 0 && d.Forwards[i-1].Deployment >= a.Deployment {
			t.Fatalf("assignments out of order, or twice: %+v", d.Forwards)
		}
		texts = append(texts, a.Rule)
	}
	for _, s := range texts {
		if !utf8.ValidString(s) || len(s) > maxDetail {
			t.Fatalf("text %q", s)
		}
	}
	if _, err := json.Marshal(d); err != nil {
		t.Fatal(err)
	}
}

// anyDelivery draws deliveries of which many are nearly right.
func anyDelivery(t *rapid.T) delivery.Delivery {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"refs/heads/main", "refs/heads/dev", "refs/heads/", "refs/tags/v1", "main", "", sha, sha256s, zeros, "octo/app", "octo/mixed", "OCTO/API", "refs/heads/--upload-pack=x",
	}))
	quoted := rapid.Custom(func(t *rapid.T) string {
		b, _ := json.Marshal(text.Draw(t, "text"))
		return string(b)
	})
	value := rapid.OneOf(quoted, quoted, quoted, rapid.SampledFrom([]string{"null", "true", "7", "[]", "{}", `{"full_name":1}`, "{"}))
	object := rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf(`{"ref":%s,"after":%s,"deleted":%s,"repository":{"full_name":%s},"sender":{"login":%s}}`,
			value.Draw(t, "ref"), value.Draw(t, "after"), rapid.SampledFrom([]string{"false", "true", "null", "1"}).Draw(t, "deleted"),
			value.Draw(t, "repository"), value.Draw(t, "sender"))
	})
	likely := rapid.Custom(func(t *rapid.T) string {
		return body(rapid.SampledFrom([]string{"refs/heads/main", "refs/heads/staging"}).Draw(t, "ref"), sha,
			rapid.SampledFrom([]string{"octo/app", "octo/mixed"}).Draw(t, "repository"))
	})
	content := rapid.OneOf(likely, object, rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	})).Draw(t, "content")
	d := push(content)
	if rapid.Bool().Draw(t, "form") {
		d.ContentType = formType
		if rapid.Bool().Draw(t, "encoded") {
			d.Body = []byte("payload=" + url.QueryEscape(content))
		}
	}
	d.Event = rapid.OneOf(rapid.Just("push"), rapid.Just("push"), rapid.Just("ping"), rapid.String()).Draw(t, "event")
	d.Source = rapid.SampledFrom([]string{"github", "cli", "recovery", ""}).Draw(t, "source")
	d.Deployment = rapid.SampledFrom([]string{"", "web", "off", "nope"}).Draw(t, "deployment")
	d.Actor = rapid.String().Draw(t, "actor")
	return d
}

func TestDecideIsTotal(t *testing.T) {
	forwarded := 0
	check := func(t *rapid.T) {
		d := anyDelivery(t)
		shuffled := rapid.Permutation(rules).Draw(t, "rules")
		got := Decide(d, shuffled)
		wellFormed(t, got)
		// Pure: neither the order of the rules nor a second time makes a difference.
		first, _ := json.Marshal(got)
		second, _ := json.Marshal(Decide(d, append(slices.Clone(rules), rules...)))
		if !bytes.Equal(first, second) {
			t.Fatalf("decided\n%s\nand then\n%s", first, second)
		}
		if len(got.Forwards) > 0 {
			forwarded++
		}
	}
	for range 20 { // cheap, so more often than this package's default
		rapid.Check(t, check)
	}
	if forwarded == 0 {
		t.Error("nothing that was drawn was forwarded")
	}
}

func FuzzDecide(f *testing.F) {
	f.Add("push", "application/json", "github", []byte(body("refs/heads/main", sha, "octo/app")))
	f.Add("push", formType, "github", []byte("payload="+url.QueryEscape(body("refs/heads/main", sha, "octo/app"))))
	f.Add("push", "application/json", "cli", []byte(body("refs/tags/v1", sha, "octo/app")))
	f.Add("ping", "", "github", []byte("{}"))
	f.Add("push", "", "", []byte(`{"ref":"refs/heads/main","deleted":true,"head_commit":null,"repository":{"full_name":"octo/app"}}`))
	f.Add("push", "", "", []byte("\xff"))
	f.Fuzz(func(t *testing.T, event, contentType, source string, content []byte) {
		d := push(string(content))
		d.Event, d.ContentType, d.Source, d.Deployment = event, contentType, source, "web"
		wellFormed(t, Decide(d, rules))
	})
}
