package pm2

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// Problem is something that keeps a deploy, or the apps, from working, or may do so.
type Problem struct {
	Text, Advice string
	// Fatal says that it does not work.
	Fatal bool
}

// tried are the versions that deploys were tried with.
var tried = map[string]*regexp.Regexp{
	"node": regexp.MustCompile(`\A(20\.(19|[2-9][0-9])|22\.(1[2-9]|[2-9][0-9])|24)\.`),
	"pnpm": regexp.MustCompile(`\A(9|10|12)\.`),
	"pm2":  regexp.MustCompile(`\A[567]\.`),
}

// untried says that a program is of another version than those.
func untried(program, version string) string {
	if version == "" || tried[program].MatchString(version) {
		return ""
	}
	want := map[string]string{"node": "20.19, 22.12, 24 or one of their later minor versions", "pnpm": "9, 10 or 12", "pm2": "5, 6 or 7"}
	return fmt.Sprintf("%s is of version %s, and deploys were tried with %s", program, version, want[program])
}

const versionWithin = 10 * time.Second

// Inspect looks at the programs and at pm2's daemons, and starts none. found says which
// there are.
func (h *Handler) Inspect(ctx context.Context, env handlers.Env) (found string, problems []Problem) {
	say := func(fatal bool, advice, format string, args ...any) {
		problems = append(problems, Problem{fmt.Sprintf(format, args...), advice, fatal})
	}
	env.SearchPaths = slices.Concat(h.cfg.SearchPaths, env.SearchPaths)
	versions := map[string]string{}
	for _, program := range []string{"node", "pnpm", "pm2"} {
		path, err := process.LookPath(program, "/", env.SearchPaths, env.Vars)
		if err != nil {
			say(true, "install it, or name its directory in executable_search_paths", "%v", err)
			continue
		}
		version := packageVersion(path, program) // asked for it, pm2 starts a daemon
		if version == "" && program != "pm2" {
			version = versionOf(ctx, env, path)
		}
		versions[program] = version
		found += fmt.Sprintf("%s %s, ", program, cmp.Or(version, "of an unknown version"))
		if problem := untried(program, version); problem != "" {
			say(false, "install one of those, or try a deploy", "%s", problem)
		}
	}
	if want := h.wantedPNPM(); want != "" && versions["pnpm"] != "" && want != versions["pnpm"] {
		say(false, "install that version", "package.json asks for pnpm %s, and %s is here: pnpm 10 and newer fetch the other one, and fail where they cannot", want, versions["pnpm"])
	}
	for _, a := range h.wantedInterpreters() {
		say(true, "install it there, or change the ecosystem file and deploy", "the app %s wants the interpreter %s, which is not there: it does not start again", a[0], a[1])
	}
	home := (&run{Config: h.cfg}).home(env)
	processes := process.All()
	own := 0
	for _, d := range daemonsOf(processes) {
		switch {
		case fmt.Sprint(d.pid) == daemonPID(home):
			own = d.pid
			found += fmt.Sprintf("pm2's daemon %s as process %d", d.version, d.pid)
			if versions["pm2"] != "" && d.version != versions["pm2"] {
				say(false, "restart its unit at a quiet time, which restarts all apps", "pm2's daemon (process %d) is of version %s, and the program of %s", d.pid, d.version, versions["pm2"])
			}
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", d.pid)); err == nil && strings.HasSuffix(exe, " (deleted)") {
				say(false, "restart its unit at a quiet time", "pm2's daemon (process %d) runs %s, which was removed since", d.pid, strings.TrimSuffix(exe, " (deleted)"))
			}
			if strings.HasSuffix(cgroup(fmt.Sprint(d.pid)), "/durhack-deployer.service") {
				say(false, advice(home), "pm2's daemon (process %d) runs inside the deployer's service, whose next restart ends all apps", d.pid)
			}
		case home == d.home:
			say(true, fmt.Sprintf("end the one whose apps are not wanted (kill %d)", d.pid), "process %d is another daemon of pm2 on %s", d.pid, home)
		default:
			if apps := appsOf(processes, d.pid, h.cfg.root()); len(apps) > 0 {
				say(true, "delete them there (`pm2 delete`, as that user with that PM2_HOME), and save", "another daemon of pm2 (process %d, on %s) runs apps of this deployment, too: %s", d.pid, d.home, strings.Join(apps, ", "))
			}
		}
	}
	if _, err := os.Stat(h.cfg.Definition); err == nil && own == 0 {
		say(true, "start its unit, or deploy", "pm2's daemon on %s does not run, as far as this user sees, and so none of the apps does", home)
	}
	return strings.TrimSuffix(found, ", "), problems
}

// packageVersion is the version of the npm package that a program is of; "" where that
// cannot be told.
func packageVersion(program, name string) string {
	file, err := filepath.EvalSymlinks(program)
	if err != nil {
		return ""
	}
	for dir := filepath.Dir(file); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		var found struct{ Name, Version string }
		if text, err := os.ReadFile(filepath.Join(dir, "package.json")); err == nil && json.Unmarshal(text, &found) == nil && found.Name == name {
			return found.Version
		}
	}
	return ""
}

// versionOf is what a program says of itself.
func versionOf(ctx context.Context, env handlers.Env, program string) string {
	ctx, cancel := context.WithTimeout(ctx, versionWithin)
	defer cancel()
	var said bytes.Buffer
	env.Out = &said
	if err := env.Run(ctx, "/", nil, program, "--version"); err != nil {
		return ""
	}
	return strings.TrimPrefix(strings.TrimSpace(said.String()), "v")
}

// wantedPNPM is the version of pnpm that package.json asks for.
func (h *Handler) wantedPNPM() string {
	var wants struct{ PackageManager string }
	text, err := os.ReadFile(filepath.Join(cmp.Or(h.cfg.Current, h.cfg.Path), "package.json"))
	if err != nil || json.Unmarshal(text, &wants) != nil {
		return ""
	}
	version, is := strings.CutPrefix(wants.PackageManager, "pnpm@")
	version, _, _ = strings.Cut(version, "+")
	if !is {
		return ""
	}
	return version
}

// wantedInterpreters are the apps, as they were deployed, whose interpreters are gone.
func (h *Handler) wantedInterpreters() (gone [][2]string) {
	var deployed struct {
		Apps []struct{ Name, Interpreter string }
	}
	text, err := os.ReadFile(h.cfg.Definition)
	if err != nil || json.Unmarshal(text, &deployed) != nil {
		return nil
	}
	for _, a := range deployed.Apps {
		if !filepath.IsAbs(a.Interpreter) {
			continue
		}
		if _, err := process.LookPath(a.Interpreter, "/", nil, nil); err != nil {
			gone = append(gone, [2]string{a.Name, a.Interpreter})
		}
	}
	return gone
}

// pm2Daemon is one of any user's.
type pm2Daemon struct {
	pid           int
	version, home string
}

var daemonTitle = regexp.MustCompile(`\APM2 v(\S+): God Daemon \(([^)\x00]*)`)

// daemonsOf finds them by their titles.
func daemonsOf(processes []process.Stat) []pm2Daemon {
	var found []pm2Daemon
	for _, p := range processes {
		if m := daemonTitle.FindStringSubmatch(commandLine(p.PID)); m != nil {
			found = append(found, pm2Daemon{p.PID, m[1], m[2]})
		}
	}
	return found
}

// appsOf are the scripts below path that a daemon runs. Its apps are its children, with
// their scripts as titles.
func appsOf(processes []process.Stat, daemon int, path string) []string {
	var apps []string
	for _, p := range processes {
		if p.Parent != daemon {
			continue
		}
		for word := range strings.FieldsFuncSeq(commandLine(p.PID), func(r rune) bool { return r == 0 || r == ' ' }) {
			if filepath.IsAbs(word) && inside(word, path) && !slices.Contains(apps, word) {
				apps = append(apps, word)
			}
		}
	}
	return apps
}

func commandLine(pid int) string {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")) // it may have ended
	return string(text)
}
