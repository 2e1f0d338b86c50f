package pm2

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// evaluator writes what an ecosystem file exports as JSON.
//
//go:embed evaluate.mjs
var evaluator string

// app is one of the ecosystem file's, as pm2 is given it.
type app struct {
	name string
	// definition is the hash of all that `pm2 restart` does not apply.
	definition string
	// instances is how many there are; 0 is a number that depends on the machine.
	instances int
	cluster   bool
	// once says that the app is not started again when it ends by itself, cron that
	// pm2 starts it again by the clock.
	once, cron bool
	cwd        string
	// script is the file that runs; "" where a shell or PATH finds it.
	script string
	fields map[string]any
}

// The variables by which we know the apps again.
const (
	deploymentVar = "DURHACK_DEPLOYMENT"
	definitionVar = "DURHACK_DEFINITION"
)

// maxEcosystem bounds what the evaluated file may be.
const maxEcosystem = 1 << 20

// pm2Fields are the variables, beside those that begin with pm_, that pm2 would take for
// what it knows of an app itself: it keeps both in one object.
var pm2Fields = []string{
	"autorestart", "cron_restart", "env", "exec_interpreter", "exec_mode", "exit_code", "instances", "name", "namespace", "restart_time", "status", "unstable_restarts",
}

// evaluate runs the ecosystem file once. pm2 is given what it said then, so that what
// was checked is what runs.
func (r *run) evaluate(ctx context.Context, env handlers.Env) error {
	if _, err := os.Stat(filepath.Join(r.Path, r.Ecosystem)); err != nil {
		return fmt.Errorf("there is no %s at this commit; it has to say what pm2 runs", r.Ecosystem)
	}
	r.earlier, r.first = namesIn(r.Definition)
	text, err := r.exported(ctx, env, r.Path)
	if err != nil {
		return err
	}
	if r.apps, err = r.parse(text, env); err != nil {
		return fmt.Errorf("%s: %w", r.Ecosystem, err)
	}
	for _, a := range r.apps {
		env.Say("%s: %v in %s", a.name, a.fields["script"], a.cwd)
	}
	return nil
}

// exported is what the ecosystem file in a directory exports, as JSON.
func (r *run) exported(ctx context.Context, env handlers.Env, at string) ([]byte, error) {
	file := filepath.Join(at, r.Ecosystem)
	if err := os.MkdirAll(filepath.Dir(r.Definition), 0o700); err != nil {
		return nil, fmt.Errorf("keep what it says: %w; the user who deploys must be able to write there (with user, in pm2_home)", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(r.Definition), ".evaluate-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, "apps.json")
	env.Say("$ node --eval ... -- %s", file)
	env.SearchPaths = slices.Concat(r.SearchPaths, env.SearchPaths)
	if err := env.Run(ctx, at, []string{"INSTANCE_NAME=" + r.Instance},
		"node", "--input-type=module", "--eval", evaluator, "--", file, out); err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", r.Ecosystem, err)
	}
	text, err := os.ReadFile(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s ended node before it exported anything; it must export apps", r.Ecosystem)
	case err != nil:
		return nil, err
	case len(text) > maxEcosystem:
		return nil, fmt.Errorf("%s exports more than %d bytes", r.Ecosystem, maxEcosystem)
	}
	return text, nil
}

// remember keeps, before the first checkout, what the file that is there calls the apps:
// those of the Python deployer run by these names. Where it cannot be evaluated, they are
// known by where they run.
func (r *run) remember(ctx context.Context, env handlers.Env) error {
	if _, err := os.Stat(r.Definition); err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(r.root(), r.Ecosystem)); err != nil {
		return nil //nolint:nilerr // there are none, or it is the step checkout that fails
	}
	ctx, cancel := context.WithTimeout(ctx, ecosystemTimeout)
	defer cancel()
	text, err := r.exported(ctx, env, r.root())
	if err != nil {
		env.Say("which apps are taken over is told by where they run: %v", err)
		return nil
	}
	return durable.WriteFile(r.Definition, text, 0o600)
}

// define writes the file that pm2 is given, with the names that the next run knows.
func (r *run) define() error {
	all := make([]map[string]any, len(r.apps))
	for i, a := range r.apps {
		all[i] = a.fields
	}
	definition, err := json.MarshalIndent(map[string]any{"apps": all}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(r.Definition, definition, 0o600)
}

// namesIn are the apps of a definition that was written earlier, nil where there is none,
// and first says that no deploy wrote it: see remember.
func namesIn(file string) (names []string, first bool) {
	var earlier struct {
		Apps []struct {
			Name string
			Env  map[string]any
		}
	}
	text, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(text, &earlier) != nil {
		return nil, true // it is one of two ways to know apps again
	}
	names = make([]string, len(earlier.Apps))
	for i, a := range earlier.Apps {
		names[i] = a.Name
		first = first || a.Env[deploymentVar] == nil
	}
	return names, first
}

// parse checks the apps that a file exported, and adds what they are given.
func (r *run) parse(text []byte, env handlers.Env) ([]app, error) {
	var exported struct {
		Apps []map[string]any `json:"apps"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&exported); err != nil {
		return nil, fmt.Errorf("it exports no list of apps: %w", err)
	}
	if len(exported.Apps) == 0 {
		return nil, errors.New("it exports no apps; to stop them all, disable the deployment and delete them with pm2")
	}
	var apps []app
	for i, f := range exported.Apps {
		a, err := r.app(f, env)
		if err != nil {
			return nil, fmt.Errorf("app %d (%q): %w", i+1, f["name"], err)
		}
		if slices.ContainsFunc(apps, func(b app) bool { return a.name == b.name }) {
			return nil, fmt.Errorf("two apps have the name %q", a.name)
		}
		apps = append(apps, a)
	}
	for _, a := range apps {
		if space, _ := a.fields["namespace"].(string); space != a.name && slices.ContainsFunc(apps, func(b app) bool { return b.name == space }) {
			return nil, fmt.Errorf("%q is the name of an app and the namespace of another", space)
		}
	}
	return apps, nil
}

func (r *run) app(f map[string]any, env handlers.Env) (app, error) {
	name, _ := f["name"].(string)
	if err := checkName(name); err != nil {
		return app{}, err
	}
	script, _ := f["script"].(string)
	if script == "" {
		return app{}, errors.New("it has no script")
	}
	a := app{name: name, fields: f, once: f["autorestart"] == false}
	clock, _ := f["cron_restart"].(string)
	a.cron = clock != "" && clock != "0"
	// pm2 takes a relative one for relative to its own directory.
	a.cwd = r.Path
	if cwd, _ := f["cwd"].(string); filepath.IsAbs(cwd) {
		a.cwd = filepath.Clean(cwd)
	} else if cwd != "" {
		a.cwd = filepath.Join(r.Path, cwd)
	}
	f["cwd"] = a.cwd
	mode, _ := f["exec_mode"].(string)
	_, counted := f["instances"]
	a.cluster = strings.HasPrefix(mode, "cluster") || mode == "" && counted
	a.instances = 1
	if n, ok := f["instances"].(json.Number); ok {
		count, err := n.Int64()
		a.instances = int(max(count, 0)) // 0 and less: depends on the processors
		if err != nil {
			return app{}, fmt.Errorf("instances is %s, which is no whole number", n)
		}
	} else if counted {
		a.instances = 0 // "max"
	}
	vars, ok := f["env"].(map[string]any)
	if !ok {
		if f["env"] != nil {
			return app{}, errors.New("env is not an object")
		}
		vars = map[string]any{}
	}
	for _, kv := range slices.Concat(r.Env, []string{"INSTANCE_NAME=" + r.Instance, deploymentVar + "=" + r.job.Deployment, "DURHACK_COMMIT=" + r.job.Commit}) {
		key, value, _ := strings.Cut(kv, "=")
		vars[key] = value
	}
	for key := range vars {
		if strings.HasPrefix(key, "pm_") || slices.Contains(pm2Fields, key) {
			return app{}, fmt.Errorf("env sets %q, which pm2 takes for what it knows of the app itself; give the variable another name", key)
		}
	}
	f["env"] = vars
	var err error
	if a.script, err = r.found(a, script, env); err != nil {
		return app{}, err
	}
	a.cwd, a.script = r.lasting(a.cwd), r.lasting(a.script)
	for _, fields := range []map[string]any{f, vars} {
		for key, value := range fields {
			if text, ok := value.(string); ok {
				fields[key] = r.lasting(text)
			}
		}
	}
	if a.definition, err = definition(f); err != nil {
		return app{}, err
	}
	vars[definitionVar] = a.definition
	return a, nil
}

// lasting is a path in a release as it is by the link that leads to the live one: what
// pm2 is given outlives the release.
func (r *run) lasting(path string) string {
	if r.Current == "" || !filepath.IsAbs(path) {
		return path
	}
	real, err := filepath.EvalSymlinks(r.Path) // as node tells it
	if err != nil {
		real = r.Path
	}
	for _, dir := range []string{r.Path, real} {
		if inside(path, dir) {
			rel, _ := filepath.Rel(dir, path)
			return filepath.Join(r.Current, rel)
		}
	}
	return path
}

// definition hashes what a restart does not apply: everything but the values of
// variables and the arguments.
func definition(f map[string]any) (string, error) {
	rest := map[string]any{}
	for key, value := range f {
		switch key {
		case "args", "node_args":
		case "env":
			var keys []string
			for k := range value.(map[string]any) {
				if k != definitionVar {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			rest[key] = keys
		default:
			rest[key] = value
		}
	}
	text, err := json.Marshal(rest) // with sorted keys
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), err
}

// found looks for the programs of an app, before anything that runs is stopped, and
// returns the file of its script.
func (r *run) found(a app, script string, env handlers.Env) (string, error) {
	if info, err := os.Stat(a.cwd); err != nil || !info.IsDir() {
		return "", fmt.Errorf("cwd %s is no directory; the build may not have made it", a.cwd)
	}
	dirs := slices.Concat(r.SearchPaths, env.SearchPaths)
	for _, key := range []string{"interpreter", "exec_interpreter"} {
		interpreter, _ := a.fields[key].(string)
		if interpreter == "" || slices.Contains(pm2Interpreters, interpreter) || strings.Contains(interpreter, "node@") {
			continue
		}
		if strings.Contains(interpreter, "/") && !filepath.IsAbs(interpreter) { // pm2 and its daemon would look in two places
			interpreter = filepath.Join(a.cwd, interpreter)
			a.fields[key] = interpreter
		}
		if _, err := process.LookPath(interpreter, a.cwd, dirs, env.Vars); err != nil {
			return "", fmt.Errorf("its interpreter %s is no program here: %w", interpreter, err)
		}
	}
	if strings.ContainsAny(script, " \t") {
		return "", nil // pm2 has a shell run it
	}
	at := script
	if !filepath.IsAbs(at) {
		at = filepath.Join(a.cwd, script)
	}
	if _, err := os.Stat(at); err == nil {
		return at, nil
	}
	if !strings.Contains(script, "/") {
		if _, err := process.LookPath(script, a.cwd, dirs, env.Vars); err == nil {
			return "", nil
		}
	}
	return "", fmt.Errorf("its script %s does not exist; the build may not have made it", at)
}

// pm2Interpreters are those that pm2 has itself, or needs none for.
var pm2Interpreters = []string{"none", "node", "lsc", "coffee"}

var (
	fileEnding = regexp.MustCompile(`\.json|\.ya?ml|\.config\.(js|cjs|mjs)`)
	numeric    = regexp.MustCompile(`\A[0-9]+\z`)
)

// checkName refuses the names that pm2's command line takes for something else.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it has no name")
	case !names.App(name):
		return errors.New("a name is letters, digits and any of _ . @ : -, and begins with a letter, a digit, _ or @")
	case name == "all" || name == "default":
		return fmt.Errorf("pm2 takes the name %q for all apps", name)
	case numeric.MatchString(name):
		return errors.New("pm2 takes a name of digits for the number of an app")
	case fileEnding.MatchString(name):
		return errors.New("pm2 takes a name with the ending of a file for a file")
	}
	return nil
}
