package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/lock"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// shortSecret is a length, in bytes, at which a secret may be guessed.
	shortSecret = 16
	// variety is how many different bytes a random secret has at least.
	variety = 6
	// answerWithin bounds a question to a server on this host.
	answerWithin = 3 * time.Second
)

func (d *doctor) configuration(context.Context) {
	for _, w := range d.cfg.Warnings {
		d.say(Warn, "", "%s", w)
	}
	if idle := daemon.IdleLimits(d.cfg); idle != "" {
		d.say(Warn, "see memory_max in docs/operations.md", "%s", idle)
	}
	if refused, ok := errors.AsType[*config.Errors](daemon.Wrong(d.cfg, false, true)); ok {
		for _, p := range refused.List {
			d.say(Fail, p.Suggestion, "%s", p.Message)
		}
		return
	}
	enabled := 0
	for _, dep := range d.cfg.Deployments {
		if dep.Enabled {
			enabled++
		}
	}
	d.say(OK, "", "instance %s, %s, %d enabled, from %s", d.cfg.Instance, counted(len(d.cfg.Deployments), "deployment"), enabled, strings.Join(d.cfg.Files, ", "))
}

// instance looks for what another instance was ordered here.
func (d *doctor) instance(ctx context.Context, store *daemon.Store) {
	lines, _ := daemon.Foreign(ctx, d.cfg, store) // what cannot be read is told of as that
	for _, line := range lines {
		d.say(Warn, "run a daemon of that instance on this state_dir, or delete them once they are of no use", "%s", line)
	}
}

func (d *doctor) secret(context.Context) {
	if len(d.cfg.Secrets) == 0 {
		d.say(Warn, "set webhook_secret_file, unless this host only runs `work`", "no webhook secret: `serve` and `listen` will not start")
		return
	}
	const advice = "make one with `openssl rand -hex 32`, add it beside the old one, change it at GitHub, and remove the old one"
	weak := false
	for i, s := range d.cfg.Secrets {
		which := "the webhook secret"
		if len(d.cfg.Secrets) > 1 {
			which = fmt.Sprintf("webhook secret %d of %d", i+1, len(d.cfg.Secrets))
		}
		switch {
		case len(s.Reveal()) < shortSecret:
			d.say(Warn, advice, "%s is shorter than %d bytes: anyone who sees a signed delivery may guess it", which, shortSecret)
		case different(s.Reveal()) < variety:
			d.say(Warn, advice, "%s repeats a few characters: it may be guessed", which)
		default:
			continue
		}
		weak = true
	}
	for _, v := range d.cfg.Origins() {
		if v.Key != "webhook_secret_token" || v.File == "" {
			continue
		}
		if info, err := os.Stat(v.File); err == nil && info.Mode().Perm()&0o004 != 0 {
			weak = true
			d.say(Warn, "chmod o-r "+v.File, "%s holds the webhook secret, and everybody on this host can read it", v.File)
		}
	}
	if !weak {
		d.say(OK, "", "%s, long enough", counted(len(d.cfg.Secrets), "webhook secret"))
	}
}

func different(s string) int {
	seen := map[byte]bool{}
	for i := range len(s) {
		seen[s[i]] = true
	}
	return len(seen)
}

func (d *doctor) stateDir(context.Context) {
	dir := d.cfg.StateDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.say(Warn, "start the daemon as the user that should own it", "%s is not there yet", dir)
		return
	case err != nil:
		d.say(Fail, "run this as the user that the daemon runs as", "%v", err)
		return
	case !info.IsDir():
		d.say(Fail, "name a directory in state_dir", "%s is not a directory", dir)
		return
	}
	bad := false
	if unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		bad = true
		d.say(Fail, "run this as the user that the daemon runs as, or give it the directory (chown)", "%s cannot be written by this user", dir)
	}
	if info.Mode().Perm()&0o002 != 0 {
		bad = true
		d.say(Fail, "chmod o-w "+dir, "%s can be written by everybody, who can then make deliveries", dir)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && owner.Uid != 0 {
		d.say(Warn, "run it with runuser -u to see what the daemon sees", "this is root, and %s belongs to the user %d: what only that user may not do is not found", dir, owner.Uid)
	}
	if !bad {
		d.say(OK, "", "%s can be used", dir)
	}
}

func (d *doctor) queues(context.Context) {
	waiting, queues, bad := 0, 0, false
	for _, name := range append([]string{names.MainQueue}, d.cfg.Slugs()...) {
		dir := d.cfg.QueueDir(name)
		entries, quarantined, err := daemon.LookAtQueue(d.cfg, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // made when it is needed
		}
		if err != nil {
			bad = true
			d.say(Fail, "run this as the user that the daemon runs as; see who owns the directory", "%s: %s", name, oneLine(err))
			continue
		}
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o002 != 0 {
			bad = true
			d.say(Fail, "chmod o-w "+dir, "%s can be written by everybody, who can then make deliveries", dir)
		}
		if n := len(quarantined); n > 0 {
			bad = true
			d.say(Warn, "`durhack-deployer queue list "+name+"` says why; fix the cause and move the file back, or delete it",
				"%s has %d in quarantine, the newest %s", name, n, quarantined[n-1].Name)
		}
		queues, waiting = queues+1, waiting+len(entries)
	}
	orphans, err := daemon.Orphans(d.cfg)
	if err != nil {
		bad = true
		d.say(Fail, "run this as the user that the daemon runs as; see who owns the directory", "%s", oneLine(err))
	}
	for _, name := range slices.Sorted(maps.Keys(orphans)) {
		bad = true
		d.say(Warn, "put it back; with enabled = false what waits is voided",
			"%d waiting for %s, which is not in the configuration", orphans[name], name)
	}
	if !bad {
		d.say(OK, "", "%d waiting in %s", waiting, counted(queues, "queue"))
	}
}

// counted is "1 queue", "2 queues".
func counted(n int, what string) string { return words.Counted(n, what, what+"s") }

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (d *doctor) lock(ctx context.Context) {
	if d.cfg.Lock.URL.Reveal() == "" {
		d.say(OK, "", "flock(2) in %s: one host", filepath.Join(d.cfg.StateDir, "locks"))
		return
	}
	const advice = "start the lock server or fix [lock] url: until then deploys wait"
	lock.ClientLog(d.log)
	redis, err := lock.NewRedis(d.cfg.Lock.URL.Reveal(), d.cfg.Instance, d.cfg.Lock.TTL, d.log)
	if d.failed(err, advice) {
		return
	}
	defer func() { _ = redis.Close() }()
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if d.failed(redis.Ping(ctx), advice) {
		return
	}
	d.say(OK, "", "the lock server answers")
}

// paths looks whether each enabled deployment can be checked out at its path.
func (d *doctor) paths(ctx context.Context) {
	usable, bad := 0, false
	for _, slug := range d.cfg.Slugs() {
		dep := d.cfg.Deployments[slug]
		if !dep.Enabled {
			continue
		}
		as, _ := daemon.As(dep)
		leave := as.Enter()
		err := git.CheckDir(daemon.Repository(d.cfg, dep).Dir())
		leave()
		if err != nil {
			bad = true
			d.say(Fail, "a deployment's path is missing, empty or a git repository", "%s: %s", slug, oneLine(err))
			continue
		}
		dir, info, err := nearest(dep.Path)
		switch {
		case err == nil && !info.IsDir():
			bad = true
			d.say(Fail, "move it away, or fix path in the configuration", "%s: %s cannot be made: %s is not a directory", slug, dep.Path, dir)
		case err != nil || unix.Access(dir, unix.W_OK|unix.X_OK) != nil:
			bad = true
			d.say(Fail, "make the path, empty, and give it to the user that the daemon runs as (chown), or run this as that user", "%s: %s cannot be written by this user", slug, dir)
		case as.User != nil && dir == dep.Path && !as.May(dir, unix.W_OK|unix.X_OK):
			bad = true
			d.say(Fail, fmt.Sprintf("chown -R -h %s:%d %s", as.User.Name, as.User.GID, dir), "%s: %s cannot be written by %s, as whom it is deployed", slug, dir, as.User.Name)
		default:
			usable++
		}
		for _, dir := range [...]string{dep.ConfDir, dep.SnippetsDir} { // of the handler nginx
			if dir == "" {
				continue
			}
			// There are sites without snippets.
			if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil && (dir == dep.ConfDir || !errors.Is(err, unix.ENOENT)) {
				bad = true
				d.say(Fail, "let this user make links there, as docs/handlers/nginx.md says, or run this as the user that the daemon runs as", "%s: %s cannot be written by this user: %v", slug, dir, err)
			}
		}
		if pointers, err := daemon.Tree(d.cfg, dep).LFSPointers(ctx); err == nil && len(pointers) > 0 {
			bad = true
			d.say(Warn, "", "%s: %s", slug, git.PointersText(pointers))
		}
	}
	if !bad {
		d.say(OK, "", "%s can be used, as far as this user sees", counted(usable, "path"))
	}
}

// steps looks for the programs of enabled deployments.
func (d *doctor) steps(context.Context) {
	missing, found := 0, 0
	var own []string // whose steps run as the daemon's user
	others := 0
	for _, slug := range d.cfg.Slugs() {
		dep := d.cfg.Deployments[slug]
		if !dep.Enabled {
			continue
		}
		as, err := daemon.As(dep)
		switch {
		case err != nil: // the configuration is refused
		case as.User == nil:
			own = append(own, slug)
		default:
			others++
			missing += d.reaches(slug, as)
		}
		for _, step := range append(slices.Clip(dep.Steps), config.Step{Name: names.StepHealth, Run: dep.Health.Command}) {
			if len(step.Run) == 0 {
				continue
			}
			if strings.Contains(step.Run[0], "/") && !filepath.IsAbs(step.Run[0]) {
				continue // it comes with the checkout
			}
			env := daemon.Environment(d.cfg, dep)
			for name, value := range step.Env {
				env = append(env, name+"="+value)
			}
			leave := as.Enter()
			_, err := process.LookPath(step.Run[0], dep.Path, d.cfg.ExecutableSearchPaths, env)
			leave()
			if err != nil {
				missing++
				d.say(Fail, "install it, or name its directory in executable_search_paths", "step %q of %s: %v", step.Name, slug, err)
				continue
			}
			found++
		}
	}
	if header := d.cfg.Admin.UserHeader; header != "" && len(own)+others > 0 {
		d.say(Warn, "leave out [admin] user_header and use `login`, where you do not trust whoever can push a step's programs",
			"steps can connect to [admin] and name anybody in %s, so that they act in that name", header)
	}
	if missing > 0 {
		return
	}
	const may = "run as the daemon's user, so anyone who can push a step's programs can read the signing key and the webhook secret, and rewrite the log"
	switch {
	case len(own) == 0 && others > 0:
		d.say(OK, "", "%s found; no steps run as the daemon's user", counted(found, "program"))
	case others > 0:
		d.say(OK, "", "%s found; steps of %s %s", counted(found, "program"), strings.Join(own, ", "), may)
	default:
		d.say(OK, "", "%s found; steps %s", counted(found, "program"), may)
	}
}

// reaches tells of what is the daemon's alone, and what the user of a deployment can use.
func (d *doctor) reaches(slug string, as process.As) (found int) {
	for _, p := range daemon.Guarded(d.cfg) {
		if as.May(p.Path, p.Use) {
			found++
			d.say(Fail, "take the rights on it from others, and from that user's groups (chmod, chown), or name another user",
				"%s, as whom %s is deployed, can use %s: so can anyone who can push a step's programs", as.User.Name, slug, p.Path)
		}
	}
	return found
}
