// Package pm2 is the handler of apps that run under pm2: it checks a commit out,
// installs and builds its workspaces with pnpm, and puts what the ecosystem file says
// into force app by app.
//
// pm2 is not trusted further than it deserves. Its command line takes names for
// patterns, files and options, so apps are acted on by their numbers. `pm2 restart FILE`
// applies a part of the file, so apps whose definition changed are replaced. It exits
// with 0 for apps that are broken, so the handler looks at them for a while. Commands
// without a daemon start one each, so all of it happens under one lock.
package pm2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// Config is one deployment's. It was checked where it was read.
type Config struct {
	source.Source
	// Instance is what the ecosystem file makes its names from, as INSTANCE_NAME.
	Instance string
	// Workspaces are directories of packages, relative to Path. What they depend on in
	// the same workspace is installed and built with them.
	Workspaces []string
	// Ecosystem is the file that says what runs, relative to Path.
	Ecosystem string
	// Migrate is run in the first of Workspaces; empty runs nothing.
	Migrate []string
	// Scripts of the packages are run in order.
	Scripts []string
	// Install are further arguments of `pnpm install`.
	Install []string
	// Env (NAME=value) is for the apps; they win over what the file sets.
	Env []string
	// Home is PM2_HOME; empty is .pm2 in HOME.
	Home string
	// Current is the link that leads to Path once it is live, where Path is a release;
	// "" where there are none. Apps run by that path, so that a restart takes them along.
	Current string
	// Definition is where what the file said is kept; pm2 reads it from there.
	Definition string
	// Settle is how long the apps are looked at before they count as running.
	Settle time.Duration
	// Reload replaces workers of apps in cluster mode one after another.
	Reload bool
}

// How long a step may take.
const (
	installTimeout   = 10 * time.Minute
	migrateTimeout   = 10 * time.Minute
	scriptTimeout    = 15 * time.Minute
	ecosystemTimeout = 30 * time.Second
	commandTimeout   = time.Minute // each command of pm2
)

// Handler implements handlers.Handler.
type Handler struct{ cfg Config }

// New returns the handler of one deployment.
func New(cfg Config) *Handler { return &Handler{cfg} }

// Plan implements handlers.Handler.
func (h *Handler) Plan(_ context.Context, job handlers.Job) (handlers.Plan, error) {
	steps, err := h.cfg.Checkout(job)
	if err != nil {
		return handlers.Plan{}, err
	}
	r := &run{Config: h.cfg, job: job}
	checkout := &steps[len(steps)-1]
	checkout.Run = after(r.remember, checkout.Run)
	// CI keeps pnpm from asking, and from rewriting the lockfile: without a terminal,
	// pnpm 9 asks, does nothing, and exits with 0.
	pnpmEnv := []string{"CI=true", "INSTANCE_NAME=" + h.cfg.Instance}
	one := []string{"pnpm", "--dir", h.cfg.Path, "--filter", "{" + h.cfg.Workspaces[0] + "}", "--fail-if-no-match"}
	all := []string{"pnpm", "--dir", h.cfg.Path}
	for _, w := range h.cfg.Workspaces {
		all = append(all, "--filter", "{"+w+"}...")
	}
	all = append(all, "--fail-if-no-match")
	steps = append(steps, notAsking(h.cfg.Program("install", "", installTimeout, pnpmEnv, slices.Concat(all, []string{"install"}, h.cfg.Install)...)))
	if len(h.cfg.Migrate) > 0 {
		steps = append(steps, h.cfg.Program("migrate", "", migrateTimeout, pnpmEnv, slices.Concat(one, []string{"exec"}, h.cfg.Migrate)...))
	}
	for _, script := range h.cfg.Scripts {
		steps = append(steps, h.cfg.Program(script, "", scriptTimeout, pnpmEnv, slices.Concat(all, []string{"run", script})...))
	}
	steps = append(steps,
		handlers.Step{
			Name: "ecosystem", Stage: handlers.Look, Timeout: ecosystemTimeout,
			Describe: fmt.Sprintf("evaluate %s with INSTANCE_NAME=%s, and check what it says", h.cfg.Ecosystem, h.cfg.Instance), Run: r.evaluate,
		},
		handlers.Step{Name: "daemon", Stage: handlers.Look, Describe: "take the lock of pm2's home, and look that its daemon runs with all its apps", Root: startCalls(), Run: r.daemon},
		handlers.Step{Name: "retire", Stage: handlers.Live, Describe: "delete the apps of this deployment that are no longer in the file", Run: r.retire},
		handlers.Step{Name: "restart", Stage: handlers.Live, Describe: "restart each app, and replace those whose definition changed", Run: r.restart},
		handlers.Step{Name: "settle", Stage: handlers.Live, Describe: fmt.Sprintf("look for %s that the apps stay up", h.cfg.Settle), Run: r.settle},
		handlers.Step{Name: "save", Stage: handlers.Live, Describe: "let pm2 bring the same apps back after a reboot", Run: r.save},
	)
	for i := range steps {
		steps[i].Run = r.told(steps[i].Run)
	}
	return handlers.Plan{Steps: steps, Undo: h.cfg.Undo(job), Finally: r.unlock}, nil
}

type work = func(context.Context, handlers.Env) error

// after does one thing after another.
func after(first, then work) work {
	return func(ctx context.Context, env handlers.Env) error {
		if err := first(ctx, env); err != nil {
			return err
		}
		return then(ctx, env)
	}
}

// notAsking fails a step that asked something, which nobody could answer, and
// succeeded without having done anything.
func notAsking(s handlers.Step) handlers.Step {
	run := s.Run
	s.Run = func(ctx context.Context, env handlers.Env) error {
		heard := &listener{out: env.Out, word: "Proceed?"}
		env.Out = heard
		if err := run(ctx, env); err != nil {
			return err
		}
		if heard.found {
			return fmt.Errorf("pnpm asked whether to proceed, and so installed nothing; remove node_modules in %s, and deploy again", filepath.Dir(s.Argv[2]+"/."))
		}
		return nil
	}
	return s
}

// listener looks for a word in what is written through it.
type listener struct {
	out   io.Writer
	word  string
	tail  string
	found bool
}

func (l *listener) Write(p []byte) (int, error) {
	text := l.tail + string(p)
	l.found = l.found || strings.Contains(text, l.word)
	l.tail = text[max(0, len(text)-len(l.word)+1):]
	if l.out == nil {
		return len(p), nil
	}
	return l.out.Write(p)
}

// root holds everything of the deployment.
func (c Config) root() string {
	if c.Current != "" {
		return filepath.Dir(c.Current)
	}
	return c.Path
}

// run is what the steps of one plan tell each other.
type run struct {
	Config
	job  handlers.Job
	lock *os.File
	// apps are those of the file, in its order.
	apps []app
	// earlier are the names in the file of the last run; first says that there was none.
	earlier []string
	first   bool
	// god is the process of pm2's daemon whose list was found whole; 0 before that.
	god int
	// retired says that running apps were touched.
	retired bool
}

func (r *run) unlock() {
	if r.lock != nil {
		_ = flock.Release(r.lock)
		r.lock = nil
	}
}

// home is PM2_HOME.
func (r *run) home(env handlers.Env) string {
	if r.Home != "" {
		return r.Home
	}
	home := ""
	for _, kv := range env.Vars {
		if v, ok := strings.CutPrefix(kv, "HOME="); ok {
			home = v
		}
	}
	return filepath.Join(home, ".pm2")
}

var errLost = errors.New("pm2's daemon ended in the middle of the run; deploy again")

// pm2 runs one command of pm2. What its environment holds becomes the environment of
// apps and of the daemon that it starts, and of its dump: so it gets nothing of the run.
func (r *run) pm2(ctx context.Context, env handlers.Env, args ...string) error {
	if r.god != 0 && daemonAt(r.home(env)) != r.god { // the command would start an empty one
		return errLost
	}
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, &handlers.TimeoutError{After: commandTimeout})
	defer cancel()
	env.Vars = slices.DeleteFunc(slices.Clone(env.Vars), func(kv string) bool {
		return strings.HasPrefix(kv, "DURHACK_") || strings.HasPrefix(kv, "CI=") || strings.HasPrefix(kv, "NO_COLOR=")
	})
	env.ProcessFile, env.Nice, env.Limits = "", 0, nil // its mark would be inherited, too
	// Not in a release, which a daemon that it starts would hold for ever.
	return r.Run(ctx, env, r.root(), []string{"PM2_HOME=" + r.home(env)}, append(append([]string{"pm2"}, args...), "--no-color")...)
}

// retire deletes apps that vanished before new ones start: one that was renamed
// wants the same port.
func (r *run) retire(ctx context.Context, env handlers.Env) error {
	procs, err := r.list(ctx, env)
	if err != nil {
		return err
	}
	var ids []string
	for _, p := range procs {
		if r.owns(p) && !slices.ContainsFunc(r.apps, func(a app) bool { return a.name == p.Name }) {
			env.Say("%s (number %d) is no longer in %s", p.Name, p.ID, r.Ecosystem)
			ids = append(ids, fmt.Sprint(p.ID))
		}
	}
	if err := r.remove(ctx, env, ids); err != nil {
		return err
	}
	return r.define() // not before: the names in it tell what has to be retired
}

// remove deletes processes by their numbers; one that is gone is no error.
func (r *run) remove(ctx context.Context, env handlers.Env, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	r.retired = true
	err := r.pm2(ctx, env, append([]string{"delete"}, ids...)...)
	if err == nil {
		return nil
	}
	procs, listErr := r.list(ctx, env)
	if listErr != nil || slices.ContainsFunc(procs, func(p proc) bool { return slices.Contains(ids, fmt.Sprint(p.ID)) }) {
		return err
	}
	return nil
}

// restart puts each app into force. An app is restarted where all that a restart
// does not apply is as it was, and replaced otherwise.
func (r *run) restart(ctx context.Context, env handlers.Env) error {
	procs, err := r.list(ctx, env)
	if err != nil {
		return err
	}
	for _, a := range r.apps {
		var ids []string
		same := true
		for _, p := range procs {
			if p.Name == a.name {
				ids = append(ids, fmt.Sprint(p.ID))
				same = same && p.Env.Definition == a.definition
			}
		}
		verb := "start"
		switch {
		case len(ids) == 0:
		case same && (a.instances == 0 || a.instances == len(ids)):
			verb = "restart"
			if r.Reload && a.cluster {
				verb = "reload"
			}
		default:
			env.Say("the definition of %s changed: it is replaced", a.name)
			if err := r.remove(ctx, env, ids); err != nil {
				return err
			}
		}
		r.retired = true
		if err := r.pm2(ctx, env, verb, r.Definition, "--only", a.name); err != nil {
			return fmt.Errorf("%s %s: %w", verb, a.name, err)
		}
	}
	return nil
}

// told says in the output what runs after a step that failed. A daemon that was lost
// meanwhile is brought back with the apps of its last save.
func (r *run) told(run work) work {
	return func(ctx context.Context, env handlers.Env) error {
		err := run(ctx, env)
		if err == nil {
			return nil
		}
		if !r.retired {
			if env.Say("no app was touched: what ran before still runs"); r.Current == "" {
				env.Say("its files may be newer: the build is in place")
			}
			return err
		}
		ctx = context.WithoutCancel(ctx)
		procs, listErr := r.list(ctx, env)
		if errors.Is(listErr, errLost) {
			procs, listErr = r.whole(ctx, env)
		}
		if listErr != nil {
			env.Say("which apps run is not known: %v", listErr)
			return err
		}
		env.Say("the apps of this deployment now:")
		for _, p := range procs {
			if r.owns(p) {
				env.Say("  %s: %s, pid %d, commit %.12s", p.Name, p.Env.Status, p.PID, p.Env.Commit)
			}
		}
		return err
	}
}
