package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// testHost is an unprivileged user's machine.
func testHost() host {
	return host{
		name:     func() (string, error) { return "box.example.com", nil },
		writable: func(string) bool { return false },
		read: func(file string, limit int64) ([]byte, error) {
			if strings.Contains(file, "forbidden") {
				return nil, &os.PathError{Op: "open", Path: file, Err: os.ErrPermission}
			}
			return readRegularFile(file, limit)
		},
	}
}

// state_dir keeps the name of the instance, so that a host that was renamed goes on
// with its history.
func TestInstanceIsTheOneThatStateDirKeeps(t *testing.T) {
	for name, test := range map[string]struct{ kept, set, want, other string }{
		"before the first start":     {"", "", "box.example.com", ""},
		"as ever":                    {"box.example.com\n", "", "box.example.com", ""},
		"the host was renamed":       {"old\n", "", "old", `this host is called "box.example.com" now, but the instance stays "old", as `},
		"set":                        {"", "new", "new", ""},
		"set as it is kept":          {"old\n", "old", "old", ""},
		"set to another":             {"old\n", "new", "new", `instance "new" is set, but `},
		"what is kept is unreadable": {"a b\n", "", "box.example.com", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.kept != "" {
				if err := os.WriteFile(InstanceFile(dir), []byte(test.kept), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text := fmt.Sprintf("state_dir = %q\n", dir)
			if test.set != "" {
				text += fmt.Sprintf("instance = %q\n", test.set)
			}
			c := mustParse(t, text)
			warned := slices.ContainsFunc(c.Warnings, func(w Warning) bool { return w.Key == "instance" })
			if c.Instance != test.want || !strings.HasPrefix(c.OtherInstance, test.other) || (c.OtherInstance == "") != (test.other == "") ||
				warned != (test.other != "" || test.kept == "a b\n") {
				t.Errorf("instance %q, %q, warnings %v", c.Instance, c.OtherInstance, c.Warnings)
			}
		})
	}
}

// environment is a lookup in a map; HOME is always set.
func environment(pairs ...string) func(string) string {
	m := map[string]string{"HOME": "/home/someone"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

// parse builds a configuration from the contents of the files a.toml, b.toml, ...
func parse(env func(string) string, contents ...string) (*Config, error) {
	var sources []source
	for i, content := range contents {
		sources = append(sources, source{File: string(rune('a'+i)) + ".toml", Data: []byte(content)})
	}
	c, problems := build(sources, nil, env, testHost())
	if len(problems) > 0 {
		return nil, &Errors{List: sortErrors(problems, fileNames(sources))}
	}
	return c, nil
}

func mustParse(t *testing.T, contents ...string) *Config {
	t.Helper()
	c, err := parse(environment(), contents...)
	if err != nil {
		t.Fatalf("unexpected errors:\n%v", err)
	}
	return c
}

// web is a deployment that is right; lines are added to its table.
func web(lines ...string) string {
	return "[deployments.web]\nrepository = \"octo/web\"\nbranch = \"main\"\npath = \"/var/www/web\"\n" + strings.Join(lines, "\n") + "\n"
}

const build1 = `steps = [{ name = "build", run = ["make"] }]`

func TestDefaults(t *testing.T) {
	c := mustParse(t, web(build1))
	want := &Config{
		Instance:  "box.example.com",
		StateDir:  "/home/someone/.local/state/durhack-deployer",
		Listen:    HostPort{"localhost", 3400},
		Admin:     Admin{HostPort: HostPort{"127.0.0.1", 3401}},
		Lock:      Lock{TTL: 30 * time.Second},
		Retention: Retention{RunLogs: 90 * 24 * time.Hour},
		Reconcile: 5 * time.Minute,
		Helper:    Helper{Socket: "/run/durhack-deployer/helper.sock"}, GitHub: GitHub{APIURL: "https://api.github.com"},
		Files: []string{"a.toml"},
		Deployments: map[string]*Deployment{"web": {
			Slug: "web", Repository: "octo/web", Branch: "main", Path: "/var/www/web",
			Remote: "https://github.com/octo/web.git", Enabled: true, Handler: "command",
			Steps:   []Step{{Name: "build", Run: []string{"make"}}},
			Timeout: 30 * time.Minute, Pending: "every", OnInterrupt: "retry",
			Digest: c.Deployments["web"].Digest, at: position{"a.toml", 1, 14},
		}},
	}
	c.origins, c.hidden = nil, nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %s\nwant %s", dump(c), dump(want))
	}
	if len(c.Deployments["web"].Digest) != 64 {
		t.Errorf("digest %q is not hex SHA-256", c.Deployments["web"].Digest)
	}
}

// dump shows fields that the types' own methods mask.
func dump(c *Config) string {
	type bare Config
	text := fmt.Sprintf("%+v", bare(*c))
	for _, slug := range c.Slugs() {
		type bareDeployment Deployment
		text += fmt.Sprintf("\n%+v", bareDeployment(*c.Deployments[slug]))
	}
	return text
}

func TestConfig_EverySettingIsRead(t *testing.T) {
	c := mustParse(t, `
origin = "https://deploy.example.com/"
instance = "box-1"
state_dir = "/srv/state/"
database_url = "host=/run/postgresql dbname=log"
webhook_secret_token = "one"
executable_search_paths = ["/opt/bin", "/opt/node/bin/"]
[listen]
host = "::1"
port = 80
[admin]
host = "localhost"
port = 0
[proxy_fix]
x_for = 1
x_proto = 2
[lock]
url = "redis://localhost"
ttl = "1m30s"
[helper]
socket = "/run/other/helper.sock"
command = ["sudo", "-n"]
[deployments.web]
repository = "octo/web"
enabled = false
branch = "release/v1"
path = "/srv/web/../web/"
remote = "git@example.com:octo/web.git"
handler = "command"
timeout = 60
pending = "latest"
on_interrupt = "fail"
restart = ["web.service", "web-worker"]
reload = ["nginx"]
on_failure = "rollback"
strategy = "releases"
keep = 3
shared = ["uploads", ".env"]
[deployments.web.health]
url = "http://localhost:3000/"
expect = { status = 204, text = "ok" }
timeout = "5s"
interval = 1
successes = 2
[[deployments.web.steps]]
name = "build"
run = ["make", "all"]
dir = "src"
env = { A = "1" }
timeout = "2m"
`)
	d := c.Deployments["web"]
	type bareDeployment Deployment
	got := fmt.Sprintf("%+v", bareDeployment(*d))
	want := fmt.Sprintf("%+v", bareDeployment{
		Slug: "web", Repository: "octo/web", Branch: "release/v1", Path: "/srv/web", Remote: "git@example.com:octo/web.git",
		Handler: "command", Timeout: time.Minute, Pending: "latest", OnInterrupt: "fail",
		Health: Health{
			URL: "http://localhost:3000/", Expect: Expect{204, "ok"}, Timeout: 5 * time.Second, Interval: time.Second, Successes: 2,
		},
		Strategy: "releases", Keep: 3, Shared: []string{"uploads", ".env"}, OnFailure: "rollback",
		Steps:   []Step{{Name: "build", Run: []string{"make", "all"}, Dir: "src", Env: map[string]string{"A": "1"}, Timeout: 2 * time.Minute}},
		Restart: []string{"web.service", "web-worker"}, Reload: []string{"nginx"},
		Digest: d.Digest, at: d.at,
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if c.Origin != "https://deploy.example.com" || c.Instance != "box-1" || c.StateDir != "/srv/state" ||
		c.DatabaseURL != "host=/run/postgresql dbname=log" || !slices.Equal(c.Secrets, []Secret{"one"}) ||
		!slices.Equal(c.ExecutableSearchPaths, []string{"/opt/bin", "/opt/node/bin"}) ||
		c.Listen.String() != "[::1]:80" || c.Admin.String() != "localhost:0" || c.ProxyFix != (ProxyFix{1, 2}) ||
		c.Lock != (Lock{"redis://localhost", 90 * time.Second}) ||
		c.Helper.Socket != "/run/other/helper.sock" || !slices.Equal(c.Helper.Command, []string{"sudo", "-n"}) {
		t.Errorf("got %s", dump(c))
	}
}

func TestHandlerFollowsFromTheKeys(t *testing.T) {
	const site = `sites = [{ rule = "include", select = ["*"] }]`
	for _, test := range []struct{ lines, handler string }{
		{build1, "command"},
		{`steps = []`, "command"},
		{`handler = "command"`, "command"},
		{`instance_name = "web"`, "pm2"},
		{site, "nginx"},
		{`sites = []`, "nginx"},
		{`systemd_unit_name = "deployer"`, "self"},
		{"systemd_unit_name = \"deployer\"\nuwsgi_config_path = \"/etc/uwsgi/a.ini\"", "self"},
		{`uwsgi_config_path = "/etc/uwsgi/a.ini"`, "self"},
		{"instance_name = \"web\"\nuwsgi_config_path = \"/etc/uwsgi/a.ini\"", "pm2"},
		{"handler = \"command\"\ninstance_name = \"web\"\n" + build1, "command"},
		{"handler = \"nginx\"\n" + build1 + "\n" + site, "nginx"},
	} {
		c := mustParse(t, web(test.lines))
		d := c.Deployments["web"]
		if d.Handler != test.handler {
			t.Errorf("%s: handler %q, want %q", test.lines, d.Handler, test.handler)
		}
	}
}

func TestMergeIsByKeyAndReplacesLists(t *testing.T) {
	c := mustParse(t,
		"executable_search_paths = [\"/a\", \"/b\"]\n[listen]\nhost = \"0.0.0.0\"\nport = 1\n"+web(build1),
		"executable_search_paths = [\"/c\"]\n[listen]\nport = 2\n[deployments.web]\nbranch = \"dev\"\n[deployments.two]\nrepository = \"octo/two\"\nbranch = \"main\"\npath = \"/srv/two\"\nsteps = []",
		"[[deployments.web.steps]]\nname = \"other\"\nrun = [\"true\"]\n",
	)
	if c.Listen != (HostPort{"0.0.0.0", 2}) || !slices.Equal(c.ExecutableSearchPaths, []string{"/c"}) || !slices.Equal(c.Slugs(), []string{"two", "web"}) {
		t.Errorf("got %s", dump(c))
	}
	d := c.Deployments["web"]
	if d.Branch != "dev" || d.Repository != "octo/web" || len(d.Steps) != 1 || d.Steps[0].Name != "other" {
		t.Errorf("got %s", dump(c))
	}
}

func TestDigestIsOfWhatTakesEffect(t *testing.T) {
	digestOf := func(contents ...string) string { return mustParse(t, contents...).Deployments["web"].Digest }
	base := digestOf(web(build1))
	for name, contents := range map[string][]string{
		"formatting and order": {"[deployments.web]\npath='/var/www/web/' # here\nsteps=[{run=['make'],name='build'}]\n\nbranch='main'\nrepository='octo/web'"},
		"several files":        {"[deployments.web]\nbranch = \"main\"\n" + build1, "[deployments.web]\nrepository = \"octo/web\"\npath = \"/var/www/web\""},
		"an overridden value":  {web(build1, `timeout = 5`), "[deployments.web]\ntimeout = \"30m\""},
		"defaults written out": {web(build1, `enabled = true`, `handler = "command"`, `pending = "every"`, `remote = "https://github.com/octo/web.git"`)},
		"other settings":       {"origin = \"https://a.example\"\n" + web(build1)},
	} {
		if got := digestOf(contents...); got != base {
			t.Errorf("%s changed the digest", name)
		}
	}
	seen := map[string]string{base: "nothing"}
	for _, lines := range []string{
		`steps = [{ name = "build", run = ["make", ""] }]`,
		`steps = [{ name = "build", run = ["make"], dir = "x" }]`,
		`steps = [{ name = "build", run = ["make"], timeout = 1 }]`,
		`steps = [{ name = "build", run = ["make"], env = { A = "1" } }]`,
		`steps = [{ name = "build", run = ["make"], env = { A = "2" } }]`,
		`steps = [{ name = "build", run = ["make"], env = { A_TOKEN = "2" } }]`,
		build1 + "\nenabled = false", build1 + "\ntimeout = 1", build1 + "\npending = \"latest\"", build1 + "\non_interrupt = \"fail\"",
		build1 + "\nremote = \"/srv/git/web.git\"", build1 + "\nhealth = \"http://localhost/\"", `instance_name = "a"`, `sites = []`, `systemd_unit_name = "a"`,
	} {
		got := digestOf(web(lines))
		if other, same := seen[got]; same {
			t.Errorf("%q has the digest of %q", lines, other)
		}
		seen[got] = lines
	}
	secret := func(value string) string {
		return digestOf(web(`remote = "https://u:`+value+`@example.com/a"`, `steps = [{ name = "build", run = ["make"], env = { A_TOKEN = "`+value+`" } }]`))
	}
	if secret("one") != secret("two") {
		t.Error("the digest depends on a secret")
	}
}

func TestSecretsNeverShow(t *testing.T) {
	c, err := Load([]string{"testdata/show"}, environment())
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{"first-secret-value", "second-secret-value", "hunter2hunter2", "redis-password", "remote-password", "token-value-1"}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("loaded", "config", c, "secret", c.Secrets[0], "web", c.Deployments["web"], "lock", c.Lock.URL)
	encoded, err := json.Marshal([]any{c.Secrets, c.Deployments})
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{
		logged.String(), string(encoded), fmt.Sprint(c), fmt.Sprintf("%+v %#v %v", c, c, *c), fmt.Sprintf("%+v %#v %s %q", c.Secrets, c.Secrets, c.Secrets, c.Secrets),
		fmt.Sprintf("%+v %#v", c.Deployments, c.Lock), fmt.Sprint(c.Origins()), fmt.Sprint(c.Warnings), fmt.Sprintf("%#v", c.Hidden()), c.Deployments["web"].Digest,
	}
	for _, secret := range secrets {
		for i, text := range shown {
			if strings.Contains(text, secret) {
				t.Errorf("output %d shows %q: %s", i, secret, text)
			}
		}
		if !slices.Contains(c.Hidden(), Secret(secret)) {
			t.Errorf("%q is not among the values to hide in run logs", secret)
		}
	}
	if c.Secrets[0].Reveal() != "first-secret-value" || Secret("").String() != "" {
		t.Error("a secret does not reveal itself")
	}
}

func TestOrigins(t *testing.T) {
	c, err := Load([]string{"testdata/show"}, environment("STATE_DIRECTORY", "/var/lib/deployer:/other"))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, v := range c.Origins() {
		fmt.Fprintf(&got, "%s = %s  # %s\n", v.Key, v.TOML(), v.Origin())
	}
	isGolden(t, "testdata/show/origins.golden", got.String())
}

// isGolden compares text with a file, or writes the file with -update.
func isGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// Digests are in the logs of the past: no release may change one without need.
func TestDigestsStayAsTheyAre(t *testing.T) {
	c, err := Load([]string{"testdata/digests/all.toml", "testdata/show", "testdata/python"}, environment("PYTHON_ENV", "deploy.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, slug := range c.Slugs() {
		fmt.Fprintf(&got, "%s %s\n", c.Deployments[slug].Digest, slug)
	}
	isGolden(t, "testdata/digests/digests.golden", got.String())
}

func TestOriginsSortElementsByNumber(t *testing.T) {
	var steps strings.Builder
	for i := range 11 {
		fmt.Fprintf(&steps, "[[deployments.web.steps]]\nname = \"s%d\"\nrun = [\"true\"]\n", i)
	}
	var names []string
	for _, v := range mustParse(t, web()+steps.String()).Origins() {
		if strings.HasSuffix(v.Key, "].name") {
			names = append(names, fmt.Sprint(v.Value))
		}
	}
	if got := strings.Join(names, " "); got != "s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10" {
		t.Errorf("order is %s", got)
	}
}

func TestPythonLayoutLoadsUnchanged(t *testing.T) {
	c, err := Load([]string{"testdata/python"}, environment("PYTHON_ENV", "deploy.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"testdata/python/default.toml", "testdata/python/deploy.example.com.toml", "testdata/python/local.toml"}; !slices.Equal(c.Files, want) {
		t.Errorf("files are %q, want %q", c.Files, want)
	}
	if c.Origin != "https://deploy.example.com" || c.ProxyFix != (ProxyFix{1, 1}) || !slices.Equal(c.Secrets, []Secret{"a-secret-of-this-server"}) {
		t.Errorf("got %s", dump(c))
	}
	handlers := map[string]string{"deployer": "self", "nginx": "nginx", "website": "pm2", "website-staging": "pm2"}
	for slug, handler := range handlers {
		if c.Deployments[slug] == nil || c.Deployments[slug].Handler != handler {
			t.Errorf("deployment %s is not for handler %s", slug, handler)
		}
	}
	want := []SiteRule{{"include", []string{"*"}}, {"exclude", []string{"event.example.com", "live.example.com"}}}
	if got := c.Deployments["nginx"].Sites; !reflect.DeepEqual(got, want) {
		t.Errorf("sites are %v, want %v", got, want)
	}
	if d := c.Deployments["deployer"]; d.SystemdUnitName != "deployer-queue-workers" || d.UWSGIConfigPath != "/etc/uwsgi/vassals/deploy.example.com.ini" {
		t.Errorf("deployer is %+v", *d)
	}
	if len(c.Problems()) != 0 {
		t.Errorf("problems are %v", c.Problems())
	}
	var warnings []string
	for _, w := range c.Warnings {
		warnings = append(warnings, w.String())
	}
	for _, want := range []string{
		"testdata/python: PYTHON_ENV is set, so that of this directory the files are read that the Python deployer would read; not read: event.example.com.toml",
		"testdata/python/deploy.example.com.toml:7: proxy_fix.x_host is accepted from the Python deployer's files and has no effect: only the client's address and scheme are taken from proxies",
		"testdata/python/deploy.example.com.toml:15: deployments.deployer.uwsgi_config_path is accepted from the Python deployer's files and has no effect: nothing runs under uWSGI any more",
	} {
		if !slices.Contains(warnings, want) {
			t.Errorf("no warning %q in:\n%s", want, strings.Join(warnings, "\n"))
		}
	}
}

func TestLegacyKeysHaveNoEffect(t *testing.T) {
	c := mustParse(t, `
celery_task_broker_uri = "redis://localhost"
[flask]
DEBUG = true
[sqlalchemy.engine]
echo = true
`+web(`sites = []`, `sites_whitelist = { "a.example.com" = true }`))
	var keys []string
	for _, w := range c.Warnings {
		keys = append(keys, w.Key)
	}
	if got := strings.Join(keys, " "); got != "celery_task_broker_uri deployments.web.sites_whitelist flask sqlalchemy" {
		t.Errorf("warnings are for %s", got)
	}
}

func TestRequireSecret(t *testing.T) {
	c := mustParse(t, web(build1))
	err := c.RequireSecret()
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "webhook_secret_file") {
		t.Errorf("error is %v", err)
	}
	if err := mustParse(t, `webhook_secret_token = "x"`).RequireSecret(); err != nil {
		t.Errorf("error is %v", err)
	}
}

func TestPlaceholderSecretIsNone(t *testing.T) {
	placeholder := "webhook_secret_token = \"" + samplePlaceholder + "\"\n"
	alone := mustParse(t, placeholder)
	if len(alone.Secrets) != 0 || len(alone.Warnings) != 1 || !strings.Contains(alone.Warnings[0].Message, "anybody could sign") {
		t.Errorf("alone: %q %v", alone.Secrets, alone.Warnings)
	}
	if alone.RequireSecret() == nil {
		t.Error("a daemon would start with a secret that everybody knows")
	}
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("real\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	both := mustParse(t, placeholder, fmt.Sprintf("webhook_secret_file = %q", file))
	if !slices.Equal(both.Secrets, []Secret{"real"}) || len(both.Warnings) != 1 {
		t.Errorf("both: %d secrets, %v", len(both.Secrets), both.Warnings)
	}
}

func TestUnspecifiedIPv4AddressMeansIPv4Alone(t *testing.T) {
	for host, want := range map[string]string{
		"0.0.0.0": "tcp4", "127.0.0.1": "tcp4", "::": "tcp", "::1": "tcp", "localhost": "tcp", "": "tcp",
	} {
		if got := (HostPort{Host: host}).Network(); got != want {
			t.Errorf("%q listens on %s, want %s", host, got, want)
		}
	}
}

func TestPM2Keys(t *testing.T) {
	d := mustParse(t, web(`instance_name = "web"`)).Deployments["web"]
	preset := PM2{
		Workspaces: []string{"server"}, Ecosystem: "ecosystem.config.js", Migrate: []string{"prisma", "migrate", "deploy"},
		Scripts: []string{"generate", "build"}, Install: []string{"--frozen-lockfile"}, Settle: 10 * time.Second,
	}
	if !reflect.DeepEqual(d.PM2, preset) {
		t.Errorf("the presets are %+v", d.PM2)
	}
	d = mustParse(t, web(`instance_name = "web"`, `migrate = []`, `scripts = ["compile"]`, `workspaces = ["apps/client", "server"]`, `pm2_home = "/srv/pm2"`)).Deployments["web"]
	if len(d.Migrate) != 0 || !reflect.DeepEqual(d.Scripts, []string{"compile"}) || len(d.Workspaces) != 2 || d.PM2Home != "/srv/pm2" {
		t.Errorf("written keys gave %+v", d.PM2)
	}
	for lines, want := range map[string]string{
		`workspaces = []`:                                `workspaces names no workspace; write workspaces = ["server"]`,
		`workspaces = ["../a"]`:                          `"../a" is not a path inside of the deployment's`,
		`workspaces = ["a}..."]`:                         `"a}..." is not a path inside of the deployment's`,
		`ecosystem = "/etc/x.js"`:                        `"/etc/x.js" is not a path inside of the deployment's`,
		`scripts = ["install"]`:                          `"install" is the name of a step of the handler; give the script another name in package.json`,
		`scripts = ["--help"]`:                           `"--help" begins with a dash`,
		`pm2_home = "pm2"`:                               `"pm2" is a relative path; begin it with "/"`,
		`pm2_home = "/` + strings.Repeat("a", 100) + `"`: `is longer than the 90 bytes`,
		`settle = "soon"`:                                `settle is not a duration: "soon"`,
	} {
		_, err := parse(environment(), web(`instance_name = "web"`, lines))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", lines, err, want)
		}
	}
	_, err := parse(environment(), web(`instance_name = "web"`)+`
[deployments.staging]
repository = "octo/web"
branch = "staging"
path = "/srv/staging"
instance_name = "web"
`)
	if err == nil || !strings.Contains(err.Error(), `deployments "staging" and "web" have the same instance_name "web"`) {
		t.Errorf("a name that is there twice gave %v", err)
	}
	c := mustParse(t, web(build1, `settle = "5s"`))
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), `deployments.web.settle has no effect: the handler is "command"`) {
		t.Errorf("warnings are %v", c.Warnings)
	}
}

func TestNginxKeys(t *testing.T) {
	d := mustParse(t, web(`sites = []`)).Deployments["web"]
	preset := Nginx{
		ConfDir: "/etc/nginx/conf.d", SnippetsDir: "/etc/nginx/snippets", Production: "production", Snippets: "snippets", LocalLive: "local-live",
		NginxUnit: "nginx", PIDFile: "/run/nginx.pid", IncludePaths: []string{"/etc/nginx/", "/etc/letsencrypt/"}, LogPaths: []string{"/var/log/nginx/"},
		Certificates: Certificates{Authenticator: "nginx", RenewBefore: 30 * 24 * time.Hour},
	}
	if !reflect.DeepEqual(d.Nginx, preset) {
		t.Errorf("the presets are %+v", d.Nginx)
	}
	d = mustParse(t, web(`sites = []`, `allow_directives = ["proxy_store"]`, `nginx = ["nginx", "-c", "/x"]`, `log_paths = ["/srv/log/"]`,
		`certificates = { authenticator = "webroot", webroot = "/srv/acme", server = "https://ca", email = "a@b.test", renew_before = "10d" }`)).Deployments["web"]
	if !slices.Equal(d.AllowDirectives, []string{"proxy_store"}) || !slices.Equal(d.Certbot, []string{"certbot"}) || !slices.Equal(d.LogPaths, []string{"/srv/log"}) ||
		d.Certificates != (Certificates{"webroot", "/srv/acme", "https://ca", "a@b.test", 240 * time.Hour}) {
		t.Errorf("written keys gave %+v", d.Nginx)
	}
	if d = mustParse(t, web(`sites = []`, `certificates = "none"`)).Deployments["web"]; d.Certificates.Authenticator != "none" || d.Certificates.RenewBefore == 0 {
		t.Errorf("a word for the table gave %+v", d.Certificates)
	}
	for lines, want := range map[string]string{
		`conf_dir = "conf.d"`:                                               `conf_dir must be an absolute path, not "conf.d"; begin it with "/"`,
		`conf_dir = "/etc/nginx/snippets"`:                                  `conf_dir and snippets_dir are the same directory`,
		`production = "../x"`:                                               `"../x" is not a path inside of the deployment's`,
		`production = "snippets"`:                                           `the directories "snippets" and "snippets" are the same, or one is inside of the other`,
		`local_live = "production/live"`:                                    `the directories "production" and "production/live" are the same, or one is inside of the other`,
		`allow_directives = ["*"]`:                                          `"*" is not the name of a directive of nginx`,
		`certificates = "manual"`:                                           `certificates must be "nginx", "webroot" or "none", not "manual"`,
		`certificates = { renew_before = "d" }`:                             `certificates.renew_before is not a duration: "d"; write it like "90s", "10m", "1h30m" or "90d"`,
		`certificates = { renew_before = "99999d" }`:                        `is not a duration`,
		"nginx = [\"nginx\"]\ncertificates = \"webroot\"":                   `has authenticator = "webroot" and no webroot; add webroot`,
		"nginx = [\"nginx\"]\ncertificates = { email = \"--pre-hook=id\" }": `which certbot would take for an option`,
	} {
		_, err := parse(environment(), web(`sites = []`, lines))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", lines, err, want)
		}
	}
	for lines, want := range map[string]string{
		"sites = []\ncertificates = { email = \"a@b.test\" }": `deployments.web.certificates.email has no effect: the helper runs certbot, by the rules of helper.toml`,
		build1 + "\nconf_dir = \"/x\"":                        `deployments.web.conf_dir has no effect: the handler is "command"`,
	} {
		c := mustParse(t, web(lines))
		if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), want) {
			t.Errorf("%s: warnings are %v", lines, c.Warnings)
		}
	}
}

func TestSelf_SettingsAreReadAndNothingElseIs(t *testing.T) {
	const unit = `systemd_unit_name = "durhack-deployer"`
	c := mustParse(t, web(unit, `on_interrupt = "retry"`, `[deployments.web.self]`, `dir = "/srv/deployer"`, `ready_for = "5s"`, `probation = "2m"`, `schema_change = "allow"`))
	if got, want := c.Deployments["web"].Self, (Self{"/srv/deployer", 5 * time.Second, 2 * time.Minute, SchemaChangeAllow}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Message, "is never retried") {
		t.Errorf("warnings %v", c.Warnings)
	}
	c = mustParse(t, web(build1, `[deployments.web.self]`, `dir = "/srv/deployer"`))
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Message, `deployments.web.self has no effect: the handler is "command"`) {
		t.Errorf("warnings %v", c.Warnings)
	}
	for lines, want := range map[string]string{
		unit + "\nrestart = [\"app\"]":                                             `a.toml:6:1: deployments.web.restart cannot be with the handler self, whose last step ends the deployer`,
		unit + "\n[deployments.web.self]\nready_for = \"1m\"\nprobation = \"30s\"": `a.toml:8:1: deployments.web.self.probation must be longer than ready_for (1m0s)`,
		unit + "\n[deployments.web.self]\nschema_change = \"yes\"":                 `deployments.web.self.schema_change must be "refuse" or "allow", not "yes"`,
	} {
		if _, err := parse(environment(), web(lines)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", lines, err, want)
		}
	}
}
