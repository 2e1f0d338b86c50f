//go:build integration

// Package pm2 tries the pm2 handler with the real programs: git, node, pnpm and pm2.
package pm2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/health"
	"github.com/ducompsoc/durhack-deployer/handlers/pm2"
	"github.com/ducompsoc/durhack-deployer/handlers/releases"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// toolsets are the versions that are tried together.
var toolsets = map[string]*toolset{
	"pm2 7, pnpm 10": {packages: []string{"pm2@7.0.4", "pnpm@10.34.9"}},
	"pm2 6, pnpm 9":  {packages: []string{"pm2@6.0.14", "pnpm@9.15.9"}},
}

type toolset struct {
	packages []string
	mu       sync.Mutex
}

// tools installs programs from npm once and returns the directory that they are in.
func (s *toolset) tools(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(cache, "durhack-deployer-test", strings.ReplaceAll(strings.Join(s.packages, "-"), "@", "-"))
	bin := filepath.Join(dir, "node_modules", ".bin")
	if _, err := os.Stat(filepath.Join(dir, "whole")); err == nil {
		return bin
	}
	run(t, "", "npm", append([]string{"install", "--prefix", dir, "--no-audit", "--no-fund", "--loglevel=error"}, s.packages...)...)
	if err := os.WriteFile(filepath.Join(dir, "whole"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return bin
}

func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// host is one PM2_HOME with its programs.
type host struct {
	t         *testing.T
	bin, home string
}

func newHost(t *testing.T, set *toolset) *host {
	h := &host{t: t, bin: set.tools(t)}
	var err error
	if h.home, err = os.MkdirTemp("", "h"); err != nil { // the path of its socket must be short
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pid := h.pid()
		_ = h.pm2(context.Background(), "kill").Run()
		if pid > 0 {
			for range 500 {
				if syscall.Kill(pid, 0) != nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = os.RemoveAll(h.home)
	})
	return h
}

// env has nothing but what pm2 and its apps need.
func (h *host) env() []string {
	return []string{
		"HOME=" + h.home, "PATH=" + h.bin + ":" + os.Getenv("PATH"), "PM2_HOME=" + h.home + "/.pm2",
		"npm_config_registry=http://127.0.0.1:9/", // nothing is fetched
		"LOG=" + filepath.Join(h.home, "starts"),
	}
}

func (h *host) pm2(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "pm2"), args...)
	cmd.Env = h.env()
	return cmd
}

// pid is that of pm2's daemon.
func (h *host) pid() int {
	text, _ := os.ReadFile(filepath.Join(h.home, ".pm2", "pm2.pid"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// running are the apps by name, as pm2 lists them.
func (h *host) running() map[string]int {
	h.t.Helper()
	var out bytes.Buffer
	cmd := h.pm2(h.t.Context(), "jlist")
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		h.t.Fatal(err)
	}
	var list []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "[") {
			if err := json.Unmarshal([]byte(line), &list); err != nil {
				continue
			}
		}
	}
	pids := map[string]int{}
	for _, p := range list {
		pids[p.Name] = p.PID
	}
	return pids
}

// project is a repository with a workspace, and the deployment of it.
type project struct {
	*host
	t    *testing.T
	slug string
	work string // where commits are made
	live string
	// loopback and port are where its app listens.
	loopback string
	port     int
	cfg      pm2.Config
	// healthy is how long the health check waits that a deploy ends with; 0 is without one.
	healthy time.Duration
	// releases are where commits are built, if its path is set.
	releases releases.Config
	// onStep, if set, is told of each step before it runs.
	onStep func(name string)
	// previous is what was deployed last.
	previous string
	runs     int
}

const server = `import http from 'node:http'
import common from 'common'
http.createServer((q, r) => r.end(['VERSION', common, process.env.INSTANCE_NAME, process.env.EXTRA, process.cwd().split('/').pop(), process.pid].join(' '))).listen(process.env.PORT, 'LOOPBACK')
`

func (h *host) project(slug string) *project {
	t := h.t
	p := &project{host: h, t: t, slug: slug, work: t.TempDir(), live: filepath.Join(t.TempDir(), slug)}
	p.loopback, p.port = testkit.Address()
	testkit.Git(t, p.work, "init", "--quiet", "--initial-branch=main")
	p.write("package.json", `{"name":"root","private":true}`)
	p.write("pnpm-workspace.yaml", "packages:\n  - server\n  - common\n  - prisma\n")
	p.write(".gitignore", "node_modules\ndist\n")
	p.write("prisma/package.json", `{"name":"prisma","version":"1.0.0","bin":{"prisma":"./cli.mjs"}}`)
	p.write("prisma/cli.mjs", "#!/usr/bin/env node\nconsole.log('migrated', process.argv.slice(2).join(' '), process.cwd())\n")
	p.write("common/package.json", `{"name":"common","version":"1.0.0","type":"module","main":"dist/index.mjs","scripts":{"generate":"echo generated","build":"mkdir -p dist && cp index.mjs dist/"}}`)
	p.write("common/index.mjs", "export default 'common'\n")
	p.write("server/package.json", `{"name":"server","version":"1.0.0","type":"module","scripts":{"generate":"echo generated","build":"mkdir -p dist && cp main.mjs dist/"},"dependencies":{"common":"workspace:*"},"devDependencies":{"prisma":"workspace:*"}}`)
	p.write("server/main.mjs", strings.ReplaceAll(server, "VERSION", "v1"))
	p.ecosystem(`{ name: N + '-server', script: './dist/main.mjs', cwd: './server', env: { PORT: P, EXTRA: 'extra' } }`)
	cmd := exec.CommandContext(t.Context(), filepath.Join(h.bin, "pnpm"), "--dir", p.work, "install", "--lockfile-only")
	cmd.Env = append(h.env(), "CI=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make the lockfile: %v\n%s", err, out)
	}
	p.cfg = pm2.Config{
		Source:   source.Source{Path: p.live, Remote: p.work},
		Instance: slug, Workspaces: []string{"server"}, Ecosystem: "ecosystem.config.js",
		Migrate: []string{"prisma", "migrate", "deploy"}, Scripts: []string{"generate", "build"}, Install: []string{"--frozen-lockfile"},
		Home: filepath.Join(h.home, ".pm2"), Definition: filepath.Join(h.home, "definitions", slug+".json"), Settle: 1500 * time.Millisecond,
	}
	return p
}

func (p *project) write(name, text string) {
	p.t.Helper()
	file := filepath.Join(p.work, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "LOOPBACK", p.loopback)), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

// ecosystem writes the file for these apps; N and P are the instance's name and the port.
func (p *project) ecosystem(apps string) {
	p.write("ecosystem.config.js", fmt.Sprintf("const N = process.env.INSTANCE_NAME, P = %d\nif (!N) throw new Error('no INSTANCE_NAME')\nexport const apps = [%s]\n", p.port, apps))
}

func (p *project) commit() string {
	testkit.Git(p.t, p.work, "add", "--all")
	testkit.Git(p.t, p.work, "commit", "--quiet", "--allow-empty", "-m", "push")
	return testkit.Git(p.t, p.work, "rev-parse", "HEAD")
}

// push deploys what was written.
func (p *project) push() (handlers.Result, string) {
	p.t.Helper()
	return p.deploy(p.commit())
}

func (p *project) deploy(commit string) (handlers.Result, string) {
	p.t.Helper()
	p.runs++
	job := handlers.Job{Deployment: p.slug, DeliveryID: "d", Attempt: p.runs, Branch: "main", Commit: commit, PreviousCommit: p.previous, Path: p.live}
	var handler handlers.Handler = pm2.New(p.cfg)
	if p.releases.Path != "" {
		handler = releases.Pruned(releases.New(p.cfg.Source, p.releases, func(src source.Source) handlers.Handler {
			cfg := p.cfg
			cfg.Source, cfg.Current = src, filepath.Join(p.live, releases.Current)
			return pm2.New(cfg)
		}), p.releases)
	}
	if p.healthy > 0 {
		handler = health.Checked(handler, p.cfg.Source, health.Config{
			URL: p.url(), Text: "common", Timeout: p.healthy, Interval: 100 * time.Millisecond, Successes: 2,
		})
	}
	plan, err := handler.Plan(p.t.Context(), job)
	if err != nil {
		p.t.Fatal(err)
	}
	var out bytes.Buffer
	vars := append(handlers.Environment(job, nil, nil), p.env()...)
	r := handlers.Execute(p.t.Context(), plan, handlers.Env{Out: &out, Vars: vars, SearchPaths: []string{p.bin}}, p)
	p.previous = job.Commit
	return r, out.String()
}

// StepStarted and StepEnded implement handlers.Reporter.
func (p *project) StepStarted(name string) {
	if p.onStep != nil {
		p.onStep(name)
	}
}

func (p *project) StepEnded(handlers.StepResult) {}

func (p *project) succeeds() string {
	p.t.Helper()
	return p.succeedsWith(p.commit())
}

func (p *project) succeedsWith(commit string) string {
	p.t.Helper()
	r, out := p.deploy(commit)
	if r.Err != nil {
		p.t.Fatalf("the deploy failed: %v\n%s", r.Err, out)
	}
	return out
}

// fails deploys, and wants it to fail in a step with a text.
func (p *project) fails(step, text string) string {
	p.t.Helper()
	r, out := p.push()
	if r.Err == nil || r.FailedStep != step || !strings.Contains(r.Err.Error()+out, text) {
		p.t.Fatalf("want step %s to fail with %q: step %q, %v\n%s", step, text, r.FailedStep, r.Err, out)
	}
	return out
}

func (p *project) url() string { return fmt.Sprintf("http://%s:%d/", p.loopback, p.port) }

// answer is what the app says, without its process number, once it says something.
func (p *project) answer() (text string, pid int) {
	p.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	testkit.Wait(p.t, "the app answers", func() bool {
		resp, err := client.Get(p.url())
		if err != nil {
			return false
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		i := bytes.LastIndexByte(body, ' ')
		pid, _ = strconv.Atoi(string(body[i+1:]))
		text = string(body[:i])
		return true
	})
	return text, pid
}

func (p *project) answers(want string) int {
	p.t.Helper()
	text, pid := p.answer()
	if text != want {
		p.t.Fatalf("the app answers %q, want %q", text, want)
	}
	return pid
}

func TestPM2(t *testing.T) {
	for name, set := range toolsets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, set)
			p := h.project("web")

			if out := p.succeeds(); !strings.Contains(out, "migrated migrate deploy") || !strings.Contains(out, "/web/server") {
				t.Errorf("the migration did not run in server:\n%s", out)
			}
			first := p.answers("v1 common web extra server")

			// A push of other code restarts the app.
			p.write("server/main.mjs", strings.ReplaceAll(server, "VERSION", "v2"))
			if out := p.succeeds(); strings.Contains(out, "it is replaced") {
				t.Errorf("an app of the same definition was replaced:\n%s", out)
			}
			if pid := p.answers("v2 common web extra server"); pid == first {
				t.Error("the app was not restarted")
			}

			// An app that is renamed wants the same port.
			p.ecosystem(`{ name: N + '-api', script: './dist/main.mjs', cwd: './server', env: { PORT: P, EXTRA: 'extra' } }`)
			p.succeeds()
			p.answers("v2 common web extra server")
			if pids := h.running(); len(pids) != 1 || pids["web-api"] == 0 {
				t.Errorf("apps are %v", pids)
			}

			// script and cwd, which a restart leaves as they were.
			p.write("server/package.json", strings.ReplaceAll(read(t, p.work, "server/package.json"), "cp main.mjs dist/", "cp main.mjs dist/other.mjs"))
			p.ecosystem(`{ name: N + '-api', script: 'other.mjs', cwd: './server/dist', env: { PORT: P, EXTRA: 'extra' } }`)
			p.succeeds()
			p.answers("v2 common web extra dist")

			// A variable that was removed, and one whose value changed.
			p.ecosystem(`{ name: N + '-api', script: 'other.mjs', cwd: './server/dist', env: { PORT: P } }`)
			p.succeeds()
			p.answers("v2 common web  dist")
			p.ecosystem(`{ name: N + '-api', script: 'other.mjs', cwd: './server/dist', env: { PORT: P, EXTRA: 'more' } }`)
			p.succeeds()
			before := p.answers("v2 common web more dist")

			// What fails before apps are touched leaves them as they are.
			build := read(t, p.work, "server/package.json")
			p.write("server/package.json", strings.Replace(build, "mkdir -p dist", "false", 1))
			p.fails("build", "")
			p.write("server/package.json", build)
			ecosystem, cfg := read(t, p.work, "ecosystem.config.js"), p.cfg
			p.cfg.Migrate, p.cfg.Scripts = nil, nil
			for text, want := range map[string]string{
				"export const apps = [":               "SyntaxError",
				"throw new Error('broken')":           "broken",
				"export default () => ({ apps: [] })": "exports a function",
				"export const other = 1":              "exports no apps",
				"export const apps = []":              "exports no apps",
				"process.exit(0)":                     "before it exported anything",
				"export default { name: 'all', script: 'other.mjs', cwd: 'server/dist' }":                                   "for all apps",
				"export const apps = [{name:'web-x',script:'gone.mjs',cwd:'server/dist'}]":                                  "its script",
				"export const apps = [{name:'web-x',script:'other.mjs',cwd:'gone'}]":                                        "is no directory",
				"export const apps = [{name:'web-x',script:'other.mjs',cwd:'server/dist',interpreter:'/nonexistent/node'}]": "its interpreter",
			} {
				p.write("ecosystem.config.js", text)
				p.fails("ecosystem", want)
			}
			if pid := p.answers("v2 common web more dist"); pid != before {
				t.Error("a deploy that failed early restarted the app")
			}

			// The fix goes live, in another form of the file.
			p.cfg = cfg
			p.write("ecosystem.config.js", strings.Replace(ecosystem, "export const apps =", "module.exports.apps =", 1))
			p.succeeds()
			p.answers("v2 common web more dist")

			// An app that ends at once is seen.
			p.write("server/main.mjs", "process.exit(3)\n")
			p.cfg.Settle = time.Minute // it fails as soon as the app has ended
			p.fails("settle", "exit code")
			p.cfg.Settle = cfg.Settle
			// pm2 calls an app online whose module threw while it was loaded; the health check tells.
			p.healthy = 5 * time.Second
			p.write("server/main.mjs", "throw new Error('at load')\n")
			p.fails("health", "did not answer")
			p.write("server/main.mjs", strings.ReplaceAll(server, "VERSION", "v3"))
			p.healthy = time.Minute
			p.succeeds()
			p.answers("v3 common web more dist")
		})
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Without its daemon pm2 would start an empty one, and the next save would drop the
// apps of everybody else.
func TestPM2_DaemonIsLost(t *testing.T) {
	for name, set := range toolsets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, set)
			a, b := h.project("one"), h.project("two")
			a.succeeds()
			b.succeeds()
			old := h.pid()
			pids := h.running()
			if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL) // as a reboot does
			}
			a.succeeds()
			a.answers("v1 common one extra server")
			b.answers("v1 common two extra server")
			if now := h.running(); len(now) != 2 || h.pid() == old {
				t.Errorf("apps are %v, under the daemon %d", now, h.pid())
			}
			dump := read(t, h.home, ".pm2/dump.pm2")
			for _, name := range []string{"one-server", "two-server"} {
				if !strings.Contains(dump, strconv.Quote(name)) {
					t.Errorf("%s is not in the dump", name)
				}
			}
			for _, secret := range []string{"DURHACK_DELIVERY_ID", "DURHACK_PROCESS_MARK", `"CI"`} {
				if strings.Contains(dump, secret) {
					t.Errorf("the dump has %s", secret)
				}
			}

			// It is lost, and somebody's command starts an empty one.
			h.reboot()
			if pids := h.running(); len(pids) != 0 {
				t.Fatalf("apps are %v", pids)
			}
			if out := a.succeeds(); !strings.Contains(out, "pm2 does not run one-server, two-server of its last save") {
				t.Errorf("the run log:\n%s", out)
			}
			b.answers("v1 common two extra server")
		})
	}
}

// reboot ends the daemon and its apps as a loss of power does.
func (h *host) reboot() {
	h.t.Helper()
	old, pids := h.pid(), h.running()
	pids["pm2"] = old
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	testkit.Wait(h.t, "all of it has ended", func() bool {
		for _, pid := range pids {
			if syscall.Kill(pid, 0) == nil {
				return false
			}
		}
		return true
	})
}

// Whichever step the daemon is lost in, the run fails, all apps come back, and the next
// one succeeds.
func TestPM2_DaemonIsLostInARun(t *testing.T) {
	t.Parallel()
	h := newHost(t, toolsets["pm2 7, pnpm 10"])
	a, b := h.project("one"), h.project("two")
	a.cfg.Settle, b.cfg.Settle = 100*time.Millisecond, 100*time.Millisecond
	a.succeeds()
	b.succeeds()
	for _, step := range []string{"retire", "restart", "settle", "save"} {
		a.onStep = func(name string) {
			if name == step {
				h.reboot()
			}
		}
		a.fails(step, "daemon ended in the middle of the run")
		a.onStep = nil
		a.succeeds()
		a.answers("v1 common one extra server")
		b.answers("v1 common two extra server")
		if dump := read(t, h.home, ".pm2/dump.pm2"); !strings.Contains(dump, `"two-server"`) {
			t.Errorf("lost in %s: two-server is not in the dump", step)
		}
	}
}

// Apps of the Python deployer are taken over by the names in its file, also after a first
// deploy that failed. What somebody runs there by hand is left alone.
func TestPM2_TakesOver(t *testing.T) {
	t.Parallel()
	h := newHost(t, toolsets["pm2 6, pnpm 9"])
	p := h.project("web")
	p.write("server/idle.cjs", "setInterval(() => {}, 1000)\n")
	p.ecosystem(`{ name: N + '-old', script: './idle.cjs', cwd: './server' }`)
	p.commit()
	run(t, "", "git", "clone", "--quiet", p.work, p.live)
	hand := func(args ...string) {
		t.Helper()
		cmd := h.pm2(t.Context(), args...)
		cmd.Dir, cmd.Env = p.live, append(cmd.Env, "INSTANCE_NAME=web")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	hand("start", "ecosystem.config.js")
	hand("start", "server/idle.cjs", "--name", "by-hand")

	p.ecosystem(`{ name: N + '-server', script: './dist/main.mjs', cwd: './server', env: { PORT: P, EXTRA: 'extra' } }`)
	build := read(t, p.work, "server/package.json")
	p.write("server/package.json", strings.Replace(build, "mkdir -p dist", "false", 1))
	if out := p.fails("build", ""); !strings.Contains(out, "no app was touched") {
		t.Errorf("the run log:\n%s", out)
	}
	p.write("server/package.json", build)
	p.succeeds()
	p.answers("v1 common web extra server")
	if pids := h.running(); len(pids) != 2 || pids["web-server"] == 0 || pids["by-hand"] == 0 {
		t.Errorf("apps are %v", pids)
	}
	hand("start", "server/idle.cjs", "--name", "later")
	p.succeeds()
	if pids := h.running(); len(pids) != 3 {
		t.Errorf("apps are %v", pids)
	}
}

// pm2 starts apps again by the clock: that is no crash. Those with another mode, number or
// interpreter are replaced, and what cannot run is refused before anything is touched.
func TestPM2_AppsOfOtherKinds(t *testing.T) {
	for name, set := range toolsets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, set)
			p := h.project("web")
			p.cfg.Migrate, p.cfg.Scripts = nil, nil
			p.write("server/pair.cjs", "setInterval(() => {}, 1000)\n")
			pair := func(fields string) {
				t.Helper()
				p.ecosystem(`{ name: N + '-pair', script: './pair.cjs', cwd: './server', ` + fields + ` }`)
			}
			shows := func(mode string, count int) {
				t.Helper()
				out, err := h.pm2(t.Context(), "jlist").Output()
				if err != nil {
					t.Fatal(err)
				}
				var list []struct {
					Name string `json:"name"`
					Env  struct {
						Mode        string `json:"exec_mode"`
						Interpreter string `json:"exec_interpreter"`
					} `json:"pm2_env"`
				}
				if err := json.Unmarshal(out[bytes.IndexByte(out, '['):], &list); err != nil {
					t.Fatalf("%v in %s", err, out)
				}
				found := 0
				for _, one := range list {
					if one.Name == "web-pair" && one.Env.Mode+" "+one.Env.Interpreter == mode {
						found++
					}
				}
				if found != count {
					t.Errorf("apps are %+v, want %d of %s", list, count, mode)
				}
			}
			node, err := exec.LookPath("node")
			if err != nil {
				t.Fatal(err)
			}
			pair(`instances: 1`)
			p.succeeds()
			shows("cluster_mode "+node, 1)
			pair(`instances: 3`)
			p.succeeds()
			shows("cluster_mode "+node, 3)
			pair(`exec_mode: 'fork', instances: 2`)
			p.succeeds()
			shows("fork_mode "+node, 2)
			other := filepath.Join(h.home, "node")
			if err := os.Symlink(node, other); err != nil {
				t.Fatal(err)
			}
			pair(fmt.Sprintf(`interpreter: %q`, other))
			p.succeeds()
			shows("fork_mode "+other, 1)
			pair(`interpreter: 'gone'`)
			p.fails("ecosystem", "its interpreter gone")
			shows("fork_mode "+other, 1)

			p.cfg.Settle = 2500 * time.Millisecond
			p.write("server/job.cjs", "setTimeout(() => {}, 200)\n")
			pair(`}, { name: N + '-job', script: './job.cjs', cwd: './server', autorestart: false, cron_restart: '* * * * * *'`)
			p.succeeds()
		})
	}
}

// Two deployments whose first commands come at the same moment get one daemon.
func TestPM2_TwoAtOnce(t *testing.T) {
	for name, set := range toolsets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, set)
			a, b := h.project("one"), h.project("two")
			type result struct {
				r   handlers.Result
				out string
			}
			done := make(chan result)
			go func() {
				r, out := a.push()
				done <- result{r, out}
			}()
			r, out := b.push()
			other := <-done
			if err := errors.Join(r.Err, other.r.Err); err != nil {
				t.Fatalf("%v\n%s\n%s", err, out, other.out)
			}
			a.answers("v1 common one extra server")
			b.answers("v1 common two extra server")
			// Neither takes a name of the other.
			b.write("ecosystem.config.js", strings.ReplaceAll(read(t, b.work, "ecosystem.config.js"), "N + '-server'", "'one-server'"))
			b.fails("daemon", `belongs to deployment "one"`)
			a.answers("v1 common one extra server")
			b.answers("v1 common two extra server")
		})
	}
}

// inspected are the problems that doctor tells of, with other programs where bin is given.
func (p *project) inspected(bin ...string) (found string, problems []string) {
	p.t.Helper()
	found, list := pm2.New(p.cfg).Inspect(p.t.Context(), handlers.Env{Vars: p.env(), SearchPaths: bin})
	for _, one := range list {
		problems = append(problems, one.Text)
	}
	return found, problems
}

func TestInspect_NamesVersionsAndOtherDaemons(t *testing.T) {
	t.Parallel()
	h := newHost(t, toolsets["pm2 7, pnpm 10"])
	p := h.project("web")
	if found, problems := p.inspected(); len(problems) > 0 || !strings.HasSuffix(found, "pnpm 10.34.9, pm2 7.0.4") || h.pid() != 0 {
		t.Errorf("before the first deploy: %s, %q, daemon %d", found, problems, h.pid())
	}
	p.succeeds()
	if found, problems := p.inspected(); len(problems) > 0 || !strings.HasSuffix(found, fmt.Sprintf("pm2 7.0.4, pm2's daemon 7.0.4 as process %d", h.pid())) {
		t.Errorf("found %s, problems %q", found, problems)
	}
	has := func(what string, problems []string, want string) {
		t.Helper()
		if len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("%s: %q, want %s", what, problems, want)
		}
	}
	_, problems := p.inspected(toolsets["pm2 6, pnpm 9"].tools(t))
	has("an older program", problems, fmt.Sprintf("pm2's daemon (process %d) is of version 7.0.4, and the program of 6.0.14", h.pid()))

	p.write("package.json", `{"name":"root","private":true,"packageManager":"pnpm@9.0.0"}`)
	if err := os.Rename(filepath.Join(p.work, "package.json"), filepath.Join(p.live, "package.json")); err != nil {
		t.Fatal(err)
	}
	_, problems = p.inspected()
	has("another pnpm is asked for", problems, "package.json asks for pnpm 9.0.0, and 10.34.9 is here")
	if err := os.Remove(filepath.Join(p.live, "package.json")); err != nil {
		t.Fatal(err)
	}

	// Somebody starts the same app under a daemon of another home.
	other := newHost(t, toolsets["pm2 7, pnpm 10"])
	cmd := other.pm2(t.Context(), "start", filepath.Join(p.live, "server/dist/main.mjs"))
	cmd.Env = append(cmd.Env, "PORT=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	testkit.Wait(t, "the other daemon is seen", func() bool {
		_, problems = p.inspected()
		return len(problems) > 0
	})
	// A title has room for what the command line was, so the end of a long path may be cut.
	has("another daemon", problems, fmt.Sprintf("another daemon of pm2 (process %d, on %s/.pm2) runs apps of this deployment, too: %s/", other.pid(), other.home, p.live))
	if out, err := other.pm2(t.Context(), "delete", "main").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	text := strings.Replace(read(t, "", p.cfg.Definition), `"name"`, `"interpreter": "/nonexistent/node", "name"`, 1)
	if err := os.WriteFile(p.cfg.Definition, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, problems = p.inspected()
	has("an interpreter that is gone", problems, "the app web-server wants the interpreter /nonexistent/node")
	_ = os.Remove(p.cfg.Definition)
	p.succeeds()
	if out, err := h.pm2(t.Context(), "kill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	testkit.Wait(t, "the daemon is gone", func() bool { // it takes its file away before it ends
		_, problems = p.inspected()
		return len(problems) == 1 && !strings.Contains(problems[0], "is another daemon")
	})
	has("no daemon", problems, "does not run")
}

// Apps run by the link to the release that is live: a restart takes them along, what was
// live before is back without a build, and no release is removed that an app runs in.
func TestReleases_AreWhatAppsRunIn(t *testing.T) {
	t.Parallel()
	h := newHost(t, toolsets["pm2 7, pnpm 10"])
	p := h.project("web")
	p.cfg.Settle = 100 * time.Millisecond
	p.releases = releases.Config{Path: p.live, Keep: 2, Build: "build"}
	main := strings.ReplaceAll(server, "process.cwd().split('/').pop()", "process.cwd()")
	apps := `{ name: N + '-server', script: import.meta.dirname + '/server/dist/main.mjs', cwd: './server', env: { PORT: P, EXTRA: 'extra' } }`
	p.ecosystem(apps + `, { name: N + '-pair', script: './pair.mjs', cwd: './server', instances: 2, env: {} }`)
	p.write("server/pair.mjs", "setInterval(() => {}, 1000)\n")
	commits := map[string]string{}
	push := func(version string) {
		t.Helper()
		p.write("server/main.mjs", strings.ReplaceAll(main, "VERSION", version))
		commits[version] = p.commit()
	}
	answers := func(version string) {
		t.Helper()
		p.answers(version + " common web extra " + filepath.Join(p.live, "releases", commits[version], "server"))
		for name, pid := range h.running() {
			if at, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || at != filepath.Join(p.live, "releases", commits[version], "server") {
				t.Errorf("%s runs in %s: %v", name, at, err)
			}
		}
	}
	push("v1")
	p.succeedsWith(commits["v1"])
	answers("v1")
	push("v2")
	if out := p.succeedsWith(commits["v2"]); strings.Contains(out, "it is replaced") {
		t.Errorf("an app of the same definition was replaced:\n%s", out)
	}
	answers("v2")
	if out := p.succeedsWith(commits["v1"]); strings.Contains(out, "$ pnpm") || !strings.Contains(out, "is there already") {
		t.Errorf("what was live before was built again:\n%s", out)
	}
	answers("v1")

	// A build that fails, and a file that cannot be evaluated, leave what is live.
	push("v3")
	p.write("common/package.json", strings.Replace(read(t, p.work, "common/package.json"), "mkdir -p dist", "false", 1))
	p.fails("build", "")
	answers("v1")
	p.write("common/package.json", strings.Replace(read(t, p.work, "common/package.json"), "false", "mkdir -p dist", 1))
	file := read(t, p.work, "ecosystem.config.js")
	p.write("ecosystem.config.js", "throw new Error('broken')")
	p.fails("ecosystem", "broken")
	answers("v1")
	p.write("ecosystem.config.js", file)

	// What somebody still runs in an old release keeps that.
	push("v4")
	left := exec.Command("sleep", "600")
	left.Dir = filepath.Join(p.live, "releases", commits["v2"])
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	if out := p.succeedsWith(commits["v4"]); !strings.Contains(out, commits["v2"]+" is kept: a process runs there") {
		t.Errorf("the run log:\n%s", out)
	}
	_ = left.Process.Kill()
	_ = left.Wait()
	answers("v4")
	push("v5")
	p.succeedsWith(commits["v5"])
	answers("v5")
	entries, err := os.ReadDir(filepath.Join(p.live, "releases"))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, e := range entries {
		kept = append(kept, e.Name())
	}
	want := []string{commits["v4"], commits["v5"]}
	slices.Sort(want)
	if !slices.Equal(kept, want) {
		t.Errorf("releases are %q, want %q", kept, want)
	}
	// pm2 brings the apps back by the link.
	if dump := read(t, h.home, ".pm2/dump.pm2"); strings.Contains(dump, `"`+p.live+`/releases/`) || !strings.Contains(dump, `"pm_cwd": "`+p.live+`/current/server"`) {
		t.Errorf("the dump is %s", dump)
	}
}
