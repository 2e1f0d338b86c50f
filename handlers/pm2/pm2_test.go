package pm2

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

func sample(t *testing.T) *run {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "server"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"main.js", "server/main.js"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &run{
		Config: Config{Source: source.Source{Path: dir}, Instance: "web", Env: []string{"STAGE=production"}},
		job:    handlers.Job{Deployment: "web", Commit: "c0ffee"},
	}
}

func TestPlan_NamesItsSteps(t *testing.T) {
	t.Parallel()
	h := New(Config{Source: source.Source{Path: "/srv/web"}, Workspaces: []string{"server", "client"}, Migrate: []string{"prisma"}, Scripts: []string{"build"}})
	plan, err := h.Plan(t.Context(), handlers.Job{Branch: "main", Commit: strings.Repeat("a", 40)})
	if err != nil {
		t.Fatal(err)
	}
	want := append([]string{names.StepFetch, names.StepCheckout}, names.PM2Steps[:]...)
	want = slices.Insert(want, 4, "build")
	if !slices.Equal(plan.Names(), want) {
		t.Errorf("steps are %q, want %q", plan.Names(), want)
	}
	if got := strings.Join(plan.Steps[4].Argv, " "); got != "pnpm --dir /srv/web --filter {server}... --filter {client}... --fail-if-no-match run build" {
		t.Errorf("build is %s", got)
	}
}

func TestParse_RefusesWhatPM2TakesForSomethingElse(t *testing.T) {
	t.Parallel()
	r := sample(t)
	for name, ok := range map[string]bool{
		"web-server": true, "@scope.app:1": true, "allocator": true, "web.js": true,
		"": false, "all": false, "default": false, "/x/": false, "42": false, "-f": false, "a b": false, "a,b": false, "é": false,
		"a.json": false, "a.json5": false, "x.config.js": false, "b.yml": false, "c.yaml": false, strings.Repeat("a", 201): false,
	} {
		_, err := r.parse([]byte(`{"apps":[{"name":"`+name+`","script":"main.js"}]}`), handlers.Env{})
		if (err == nil) != ok {
			t.Errorf("the name %q gave %v", name, err)
		}
	}
	for text, want := range map[string]string{
		`{"apps":[]}`: "no apps",
		`{"apps":{}}`: "no list of apps",
		`null`:        "no apps",
		`{"apps":[{"name":"a","script":"main.js"},{"name":"a","script":"main.js"}]}`:                 `two apps have the name "a"`,
		`{"apps":[{"name":"a","script":"main.js"},{"name":"b","script":"main.js","namespace":"a"}]}`: `"a" is the name of an app and the namespace of another`,
		`{"apps":[{"name":"a"}]}`:                                        "no script",
		`{"apps":[{"name":"a","script":"main.js","env":[]}]}`:            "env is not an object",
		`{"apps":[{"name":"a","script":"main.js","instances":1.5}]}`:     "no whole number",
		`{"apps":[{"name":"a","script":"gone.js"}]}`:                     "its script",
		`{"apps":[{"name":"a","script":"main.js","cwd":"gone"}]}`:        "is no directory",
		`{"apps":[{"name":"a","script":"x y","interpreter":"/gone/x"}]}`: "its interpreter",
	} {
		if _, err := r.parse([]byte(text), handlers.Env{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// A restart applies the values of variables and the arguments, and nothing else.
func TestDefinition_IsWhatARestartDoesNotApply(t *testing.T) {
	t.Parallel()
	r := sample(t)
	of := func(fields, commit string) app {
		t.Helper()
		r.job.Commit = commit
		apps, err := r.parse([]byte(`{"apps":[{"name":"a","script":"main.js"`+fields+`}]}`), handlers.Env{})
		if err != nil {
			t.Fatal(err)
		}
		return apps[0]
	}
	first := of(`,"env":{"PORT":1}`, "one")
	vars := first.fields["env"].(map[string]any)
	if vars["INSTANCE_NAME"] != "web" || vars["STAGE"] != "production" || vars["DURHACK_COMMIT"] != "one" || vars[definitionVar] != first.definition || first.fields["cwd"] != r.Path {
		t.Errorf("pm2 is given %v", first.fields)
	}
	for fields, same := range map[string]bool{
		`,"env":{"PORT":2}`:                            true,
		`,"env":{"PORT":1},"args":"x"`:                 true,
		`,"env":{"PORT":1},"node_args":["--inspect"]`:  true,
		`,"env":{"PORT":1,"MORE":1}`:                   false,
		``:                                             false,
		`,"env":{"PORT":1},"cwd":"server"`:             false,
		`,"env":{"PORT":1},"instances":2`:              false,
		`,"env":{"PORT":1},"cron_restart":"* * * * *"`: false,
	} {
		if got := of(fields, "two"); (got.definition == first.definition) != same {
			t.Errorf("%s: same definition %v, want %v", fields, !same, same)
		}
	}
}

func TestParseList_SkipsWhatComesBefore(t *testing.T) {
	t.Parallel()
	const list = `[{"pid":7,"name":"a","pm_id":3,"pm2_env":{"status":"online","DURHACK_DEPLOYMENT":"web","pm_cwd":"/srv"}}]`
	for _, before := range []string{"", "[PM2] Spawning PM2 daemon with pm2_home=/x\n", "\n>>>> In-memory PM2 is out-of-date, do:\n>>>> $ pm2 update\n"} {
		procs, err := parseList([]byte(before + list + "\n"))
		if err != nil || len(procs) != 1 || procs[0].ID != 3 || procs[0].Env.Deployment != "web" {
			t.Errorf("%q: %+v, %v", before, procs, err)
		}
	}
	if procs, err := parseList([]byte("[]\n")); err != nil || len(procs) != 0 {
		t.Errorf("an empty list gave %v, %v", procs, err)
	}
	for _, text := range []string{"", "nothing", "[{\n"} {
		if _, err := parseList([]byte(text)); err == nil {
			t.Errorf("%q was taken for a list", text)
		}
	}
}

func TestOwns_KnowsAppsAgain(t *testing.T) {
	t.Parallel()
	r := sample(t)
	r.earlier = []string{"old"}
	for _, c := range []struct {
		name, deployment, cwd string
		ours                  bool
	}{
		{"a", "web", "/elsewhere", true},
		{"a", "other", r.Path, false},
		{"a", "", filepath.Join(r.Path, "server"), true}, // started by the Python deployer
		{"a", "", r.Path + "-staging", false},
		{"old", "", "/elsewhere", true},
		{"b", "", "/elsewhere", false},
	} {
		p := proc{Name: c.name}
		p.Env.Deployment, p.Env.Cwd = c.deployment, c.cwd
		if r.owns(p) != c.ours {
			t.Errorf("%+v: ours is %v", c, !c.ours)
		}
	}
}

func TestLook_SeesWhatIsNotUp(t *testing.T) {
	t.Parallel()
	r := sample(t)
	log := filepath.Join(r.Path, "err.log")
	if err := os.WriteFile(log, []byte(strings.Repeat("x\n", 5000)+"EADDRINUSE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.apps = []app{{name: "a", cwd: r.Path, instances: 1}, {name: "cron", cwd: r.Path, instances: 1, once: true}}
	list := func(change func(a, cron *proc)) []proc {
		a, cron := proc{Name: "a", PID: 1}, proc{Name: "cron", ID: 1}
		a.Env.Status, a.Env.Cwd, a.Env.ErrLog = "online", r.Path, log
		cron.Env.Status, cron.Env.Cwd = "stopped", r.Path
		change(&a, &cron)
		return []proc{a, cron}
	}
	for name, c := range map[string]struct {
		change        func(a, cron *proc)
		waiting, fail string
	}{
		"up":         {change: func(a, cron *proc) {}},
		"cron runs":  {change: func(a, cron *proc) { cron.Env.Status = "online" }},
		"launching":  {change: func(a, cron *proc) { a.Env.Status = "launching" }, waiting: "a is still launching"},
		"errored":    {change: func(a, cron *proc) { a.Env.Status = "errored" }, fail: "EADDRINUSE"},
		"stopped":    {change: func(a, cron *proc) { a.Env.Status = "stopped" }, fail: "a is stopped"},
		"cron fails": {change: func(a, cron *proc) { cron.Env.ExitCode = 2 }, fail: "cron is stopped (exit code 2)"},
		"another":    {change: func(a, cron *proc) { a.PID = 2 }, fail: "a ended and was started again"},
		"again":      {change: func(a, cron *proc) { a.Env.Restarts = 1 }, fail: "a ended and was started again"},
		"elsewhere":  {change: func(a, cron *proc) { a.Env.Cwd = "/" }, fail: "the file says"},
		"gone":       {change: func(a, cron *proc) { a.Name = "b" }, fail: "a runs 0 times, and the file says 1"},
	} {
		waiting, err := r.look(list(c.change), map[int]seen{0: {pid: 1}})
		if waiting != c.waiting || (err == nil) != (c.fail == "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%s: waiting %q, %v", name, waiting, err)
		}
	}
}

// pnpm 9 asks without a terminal, does nothing, and exits with 0.
func TestNotAsking_FailsWhatAsked(t *testing.T) {
	t.Parallel()
	for _, parts := range [][]string{{"Proceed? (Y/n)"}, {"...Proc", "eed?", " (Y/n)"}} {
		s := notAsking(handlers.Step{Argv: []string{"pnpm", "--dir", "/srv/web"}, Run: func(_ context.Context, env handlers.Env) error {
			for _, part := range parts {
				_, _ = env.Out.Write([]byte(part))
			}
			return nil
		}})
		var out bytes.Buffer
		if err := s.Run(t.Context(), handlers.Env{Out: &out}); err == nil || !strings.Contains(err.Error(), "asked whether to proceed") || out.String() != strings.Join(parts, "") {
			t.Errorf("%q: %v, output %q", parts, err, out.String())
		}
	}
	failed := errors.New("x")
	s := notAsking(handlers.Step{Run: func(context.Context, handlers.Env) error { return failed }})
	if err := s.Run(t.Context(), handlers.Env{}); !errors.Is(err, failed) {
		t.Error(err)
	}
}

// What pm2 is given leads through the link, also where node has told the path of the release.
func TestParse_AppsOfAReleaseRunByTheLink(t *testing.T) {
	t.Parallel()
	r := sample(t)
	real := r.Path
	elsewhere := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(real), elsewhere); err != nil {
		t.Fatal(err)
	}
	r.Path, r.Current = filepath.Join(elsewhere, filepath.Base(real)), filepath.Join(elsewhere, "current")
	of := func(fields string) map[string]any {
		t.Helper()
		apps, err := r.parse([]byte(`{"apps":[{"name":"a",`+fields+`}]}`), handlers.Env{})
		if err != nil {
			t.Fatal(err)
		}
		if apps[0].cwd != apps[0].fields["cwd"] {
			t.Errorf("cwd is %s, and pm2 is given %s", apps[0].cwd, apps[0].fields["cwd"])
		}
		return apps[0].fields
	}
	if got := of(`"script":"./server/main.js"`); got["cwd"] != r.Current || got["script"] != "./server/main.js" {
		t.Errorf("pm2 is given %v", got)
	}
	for _, dir := range []string{r.Path, real} {
		got := of(`"script":"` + dir + `/server/main.js","cwd":"` + dir + `/server","env":{"DATA":"` + dir + `/data","OTHER":"` + dir + `-2/data"}`)
		vars := got["env"].(map[string]any)
		if got["cwd"] != r.Current+"/server" || got["script"] != r.Current+"/server/main.js" || vars["DATA"] != r.Current+"/data" || vars["OTHER"] != dir+"-2/data" {
			t.Errorf("pm2 is given %v", got)
		}
	}
	if got := of(`"script":"bin sh","cwd":"/"`); got["cwd"] != "/" {
		t.Errorf("pm2 is given %v", got)
	}
}
