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

	"golang.org/x/sys/unix"

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
		`{"apps":[{"name":"a"}]}`:                                                "no script",
		`{"apps":[{"name":"a","script":"main.js","env":[]}]}`:                    "env is not an object",
		`{"apps":[{"name":"a","script":"main.js","instances":1.5}]}`:             "no whole number",
		`{"apps":[{"name":"a","script":"gone.js"}]}`:                             "its script",
		`{"apps":[{"name":"a","script":"main.js","cwd":"gone"}]}`:                "is no directory",
		`{"apps":[{"name":"a","script":"x y","interpreter":"/gone/x"}]}`:         "its interpreter",
		`{"apps":[{"name":"a","script":"main.js","interpreter":"gone-x"}]}`:      "its interpreter",
		`{"apps":[{"name":"a","script":"main.js","exec_interpreter":"./gone"}]}`: "its interpreter",
		`{"apps":[{"name":"a","script":"main.js","env":{"name":"all"}}]}`:        `env sets "name"`,
		`{"apps":[{"name":"a","script":"main.js","env":{"pm_id":0}}]}`:           `env sets "pm_id"`,
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
	within := filepath.Join(r.Path, "server")
	for _, c := range []struct {
		name, deployment, cwd string
		// known, taken and unknown say whose it is after a deploy of ours, before the first
		// one with names and without.
		known, taken, unknown bool
	}{
		{"old", "web", "/elsewhere", true, true, true},
		{"by-hand", "web", "/elsewhere", true, true, true},
		{"old", "other", within, false, false, false},
		{"old", "", within, true, true, true}, // started by the Python deployer
		{"old", "", "/elsewhere", true, false, false},
		{"by-hand", "", within, false, false, true},
		{"by-hand", "", r.Path + "-staging", false, false, false},
	} {
		p := proc{Name: c.name}
		p.Env.Deployment, p.Env.Cwd = c.deployment, c.cwd
		for i, want := range []bool{c.known, c.taken, c.unknown} {
			r.earlier, r.first = []string{"old"}, i > 0
			if i == 2 {
				r.earlier = nil
			}
			if r.owns(p) != want {
				t.Errorf("%+v, case %d: ours is %v", c, i, !want)
			}
		}
	}
}

func TestDaemon_SaysWhatToDoAboutAHomeThatIsNone(t *testing.T) {
	t.Parallel()
	r := sample(t)
	r.Home = filepath.Join(r.Path, "main.js")
	if err := r.daemon(t.Context(), handlers.Env{}); err == nil || !strings.Contains(err.Error(), "set pm2_home") {
		t.Error(err)
	}
}

// The file that a deploy wrote tells the names, and that of a deployer before it, too.
func TestNamesIn_SaysWhoseTheyAre(t *testing.T) {
	t.Parallel()
	r := sample(t)
	r.Definition = filepath.Join(r.Path, "web.json")
	if names, first := namesIn(r.Definition); names != nil || !first {
		t.Errorf("no file gave %q, %v", names, first)
	}
	if err := os.WriteFile(r.Definition, []byte(`{"apps":[{"name":"a","env":{"PORT":1}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if names, first := namesIn(r.Definition); !slices.Equal(names, []string{"a"}) || !first {
		t.Errorf("that of others gave %q, %v", names, first)
	}
	apps, err := r.parse([]byte(`{"apps":[{"name":"b","script":"main.js"}]}`), handlers.Env{})
	if err != nil {
		t.Fatal(err)
	}
	r.apps = apps
	if err := r.define(); err != nil {
		t.Fatal(err)
	}
	if names, first := namesIn(r.Definition); !slices.Equal(names, []string{"b"}) || first {
		t.Errorf("our own gave %q, %v", names, first)
	}
}

// A save must not drop the apps of others.
func TestLost_NamesWhatOthersOwn(t *testing.T) {
	t.Parallel()
	r := sample(t)
	running := func(names ...string) (procs []proc) {
		for _, name := range names {
			procs = append(procs, proc{Name: name})
		}
		return procs
	}
	check := func(procs []proc, want ...string) {
		t.Helper()
		if lost, err := r.lost(r.Path, procs); err != nil || !slices.Equal(lost, want) {
			t.Errorf("%v: %q, %v, want %q", procs, lost, err, want)
		}
	}
	check(running())
	dump := filepath.Join(r.Path, "dump.pm2")
	text := `[{"name":"own","DURHACK_DEPLOYMENT":"web"},{"name":"their","DURHACK_DEPLOYMENT":"other"},{"name":"by-hand"}]`
	if err := os.WriteFile(dump, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	check(running("their"))
	check(running("own"), "their")
	check(running(), "own", "their", "by-hand") // a daemon that somebody's command started
	if err := os.WriteFile(dump, []byte(text[:30]), 0o600); err != nil {
		t.Fatal(err)
	}
	if lost, err := r.lost(r.Path, nil); err == nil {
		t.Errorf("half a file gave %q", lost)
	}
}

func TestLook_SeesWhatIsNotUp(t *testing.T) {
	t.Parallel()
	r := sample(t)
	log := filepath.Join(r.Path, "err.log")
	if err := os.WriteFile(log, []byte(strings.Repeat("x\n", 5000)+"EADDRINUSE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.apps = []app{{name: "a", cwd: r.Path, script: "/a.js", instances: 1}, {name: "cron", cwd: r.Path, instances: 1, once: true, cron: true}}
	list := func(change func(a, cron *proc)) []proc {
		a, cron := proc{Name: "a", PID: 1}, proc{Name: "cron", ID: 1}
		a.Env.Status, a.Env.Cwd, a.Env.Script, a.Env.ErrLog = "online", r.Path, "/a.js", log
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
		"cron again": {change: func(a, cron *proc) { cron.Env.Status, cron.PID = "online", 2 }},
		"cron hurt":  {change: func(a, cron *proc) { cron.Env.Status, cron.PID, cron.Env.ExitCode = "online", 2, 2 }, fail: "cron ended and was started again (exit code 2)"},
		"other file": {change: func(a, cron *proc) { a.Env.Script = "/b.js" }, fail: "a runs /b.js, and the file says /a.js"},
		"elsewhere":  {change: func(a, cron *proc) { a.Env.Cwd = "/" }, fail: "the file says"},
		"gone":       {change: func(a, cron *proc) { a.Name = "b" }, fail: "a runs 0 times, and the file says 1"},
	} {
		waiting, err := r.look(list(c.change), map[int]seen{0: {pid: 1}, 1: {pid: 1}})
		if waiting != c.waiting || (err == nil) != (c.fail == "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%s: waiting %q, %v", name, waiting, err)
		}
	}
}

// An app that cron_restart starts again has to stay up from then on.
func TestLook_BeginsAgainWithTheClock(t *testing.T) {
	t.Parallel()
	r := sample(t)
	r.apps = []app{{name: "a", cwd: r.Path, instances: 1, cron: true}}
	first := map[int]seen{}
	for _, c := range []struct {
		pid, restarts, unstable int
		waiting, fail           bool
	}{{1, 0, 0, false, false}, {2, 1, 0, true, false}, {2, 1, 0, false, false}, {3, 2, 1, false, true}} {
		p := proc{Name: "a", PID: c.pid}
		p.Env.Status, p.Env.Cwd, p.Env.Restarts, p.Env.Unstable = "online", r.Path, c.restarts, c.unstable
		if waiting, err := r.look([]proc{p}, first); (waiting != "") != c.waiting || (err != nil) != c.fail {
			t.Errorf("%+v: waiting %q, %v", c, waiting, err)
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

// An app says itself where its log is.
func TestTail_WaitsForNoPipe(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "error.log")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(pipe); got != "" {
		t.Errorf("%q", got)
	}
}
