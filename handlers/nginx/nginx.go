// Package nginx is the handler that puts a repository of nginx's site files live. It
// compares the whole of what a commit wants with what stands, so that what failed, a
// changed filter and a change by hand are all put right by the next deploy. A new tree
// is staged beside the one that serves; one link switches, and nginx is seen to serve
// it, or the old tree is put back.
package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/flock"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// Config is one deployment's. It was checked where it was read.
type Config struct {
	source.Source
	Rules []Rule
	// ConfDir and SnippetsDir are nginx's, where the links are made.
	ConfDir, SnippetsDir string
	// Production and Snippets are directories of the repository; LocalLive is one in
	// Path that git does not track, where the trees are kept.
	Production, Snippets, LocalLive string
	// Unit is nginx's unit of systemd.
	Unit string
	// PIDFile names nginx's master process.
	PIDFile      string
	Certificates Certificates
	// AllowDirectives, IncludePaths and LogPaths say what site files may do: see rules.
	AllowDirectives, IncludePaths, LogPaths []string
	// StateFile remembers which tree is known to serve, and what the CA refused. The
	// deployments of a host keep theirs in one directory, which is locked while one works
	// with nginx.
	StateFile string
	// ReloadWithin is how long a reload may take (default 10 s).
	ReloadWithin time.Duration

	disk disk // in tests
}

const (
	// maxFile bounds a site file, in bytes.
	maxFile             = 1 << 20
	defaultReloadWithin = 10 * time.Second
)

// Handler implements handlers.Handler.
type Handler struct {
	cfg    Config
	layout layout
	rules  rules
}

// New returns the handler of one deployment.
func New(cfg Config) *Handler {
	if cfg.ReloadWithin == 0 {
		cfg.ReloadWithin = defaultReloadWithin
	}
	if cfg.disk == nil {
		cfg.disk = realDisk{}
	}
	live := filepath.Join(cfg.Path, cfg.LocalLive)
	return &Handler{
		cfg: cfg,
		layout: layout{
			live:   live,
			dirs:   map[kind]string{sites: cfg.ConfDir, snippets: cfg.SnippetsDir},
			python: map[kind]string{sites: live, snippets: filepath.Join(cfg.Path, cfg.Snippets)},
			disk:   cfg.disk,
		},
		rules: rules{
			allowed: cfg.AllowDirectives, includePaths: cfg.IncludePaths, logPaths: cfg.LogPaths,
			prefix: filepath.Dir(cfg.ConfDir),
		},
	}
}

// run is what the steps of one plan know of each other.
type run struct {
	*Handler
	job    handlers.Job
	lock   *os.File
	wanted []file
	says   map[string]inspected // by the name of the site
	tree   string               // that is staged, or already serves
	state  state
	// chosen says that the commit was found to have nothing where a journal stands.
	chosen bool
	held   map[string]limit // the sites that must wait for their certificates
	// same says that tree and links stand as they are wanted; done, that nginx is known
	// to serve them, too.
	same, done bool
}

// Plan implements handlers.Handler.
func (h *Handler) Plan(_ context.Context, job handlers.Job) (handlers.Plan, error) {
	steps, err := h.cfg.Checkout(job)
	if err != nil {
		return handlers.Plan{}, err
	}
	r := &run{Handler: h, job: job}
	add := func(name, describe string, do func(context.Context, handlers.Env) error, root ...[]string) {
		steps = append(steps, handlers.Step{Name: name, Describe: describe, Root: root, Run: do})
	}
	add("select", fmt.Sprintf("take the lock of nginx; compare the sites and snippets that commit %.12s wants with what stands in %s and %s", job.Commit, h.cfg.ConfDir, h.cfg.SnippetsDir), r.choose)
	add("inspect", "read each file as nginx does, and refuse what would let it write files or load code as root", r.inspect)
	add("certificates", h.cfg.Certificates.describe(), r.unlessSame(r.certificates), h.cfg.Certificates.verbs()...)
	add("stage", fmt.Sprintf("write the files to %s", filepath.Join(h.layout.live, treePrefix+job.Commit)), r.unlessSame(r.stage))
	add("switch", fmt.Sprintf("switch %s and the links to the new tree", filepath.Join(h.layout.live, currentName)), r.unlessSame(r.switchTree))
	add("test", "have root run nginx -t on the whole; on failure the old tree is put back", r.unlessDone(r.test), []string{names.VerbNginxTest})
	add("reload", fmt.Sprintf("have root reload %s, and see new workers of the same master; on failure the old tree is put back", h.cfg.Unit), r.unlessDone(r.reload),
		[]string{names.VerbNginxReload}, []string{names.VerbNginxErrors})
	add("finish", fmt.Sprintf("remove all but the last %d trees; fail where a site had to be left as it was", keptTrees), r.finish)
	return handlers.Plan{Steps: steps, Undo: r.undo, Finally: r.unlock}, nil
}

func (r *run) unlessSame(do func(context.Context, handlers.Env) error) func(context.Context, handlers.Env) error {
	return unless(&r.same, "nothing to do: what stands is what is wanted", do)
}

func (r *run) unlessDone(do func(context.Context, handlers.Env) error) func(context.Context, handlers.Env) error {
	return unless(&r.done, "nothing to do: nginx serves it", do)
}

func unless(not *bool, why string, do func(context.Context, handlers.Env) error) func(context.Context, handlers.Env) error {
	return func(ctx context.Context, env handlers.Env) error {
		if *not {
			env.Say("%s", why)
			return nil
		}
		return do(ctx, env)
	}
}

// choose finds the whole wanted set and what of it stands.
func (r *run) choose(ctx context.Context, env handlers.Env) (err error) {
	repo := r.cfg.Repo(env)
	tracked, err := repo.Files(ctx, r.job.Commit, maxFile, r.cfg.LocalLive)
	if err != nil {
		return err
	}
	if len(tracked) > 0 {
		return fmt.Errorf("%q is in the commit, and %s is where the deployer keeps what is live: remove it from the repository", tracked[0].Path, r.cfg.LocalLive)
	}
	if err := r.takeLock(ctx, env); err != nil {
		return err
	}
	r.chosen = true
	if err := r.recover(ctx, env); err != nil {
		return err
	}
	list, err := repo.Files(ctx, r.job.Commit, maxFile, r.cfg.Production, r.cfg.Snippets)
	if err != nil {
		return err
	}
	if r.wanted, err = r.cfg.wanted(list, env.Say); err != nil {
		return err
	}
	if r.state, err = readState(r.cfg.StateFile); err != nil {
		return err
	}
	return r.compare(env)
}

// takeLock keeps the host's other deployments away from nginx, which tests and reloads
// the trees of all of them.
func (r *run) takeLock(ctx context.Context, env handlers.Env) error {
	dir := filepath.Dir(r.cfg.StateFile)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("lock nginx: %w", err)
	}
	file, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("lock nginx: %w", err)
	}
	waits := func() { env.Say("another deployment works with nginx: waiting for it") }
	if err := flock.Await(ctx, file, flock.Exclusive, waits); err != nil {
		_ = file.Close()
		return fmt.Errorf("lock nginx: %w", err)
	}
	r.lock = file
	return nil
}

func (r *run) unlock() {
	if r.lock != nil {
		_ = flock.Release(r.lock)
		r.lock = nil
	}
}

// compare looks what of the wanted set stands.
func (r *run) compare(env handlers.Env) (err error) {
	if r.tree, err = r.layout.current(); err != nil {
		return err
	}
	holds, err := r.layout.holds(r.tree, r.wanted)
	if err != nil {
		return err
	}
	moves, notes, err := r.layout.linkChanges(r.wanted)
	if err != nil {
		return err
	}
	for _, note := range notes {
		env.Say("%s", note)
	}
	r.same = holds && len(moves) == 0
	r.done = r.same && r.state.Served == r.tree
	return nil
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}

// forPeople are names of files that are none of nginx's.
var forPeople = regexp.MustCompile(`(?i)\A(readme|license)\z|\.(md|txt)\z`)

// wanted chooses from the files of a commit.
func (c Config) wanted(list []git.File, say func(format string, args ...any)) ([]file, error) {
	dirs := map[string]kind{c.Production: sites, c.Snippets: snippets}
	var chosen []file
	for _, f := range list {
		dir, name := path.Split(f.Path)
		dir = strings.TrimSuffix(dir, "/")
		k, known := dirs[dir]
		switch {
		case dirs[f.Path] != "" || !f.Regular:
			return nil, fmt.Errorf("%q is not a plain file: links and submodules are refused, because what they lead to was not checked", f.Path)
		case !known:
			return nil, fmt.Errorf("%q is in a directory below those of sites and snippets: nginx would not read it; move it up or away", f.Path)
		case name == "" || name == ".." || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return nil, fmt.Errorf("%q is no name of a file: rename it", f.Path)
		case strings.HasPrefix(name, "."), forPeople.MatchString(name):
			continue // .gitkeep, say; nginx's globs do not take it, either
		}
		if site := parseName(name).site; k == sites && site != "" && !included(c.Rules, site) {
			say("%s is excluded by sites", site)
			continue
		}
		chosen = append(chosen, file{kind: k, name: name, path: f.Path, text: f.Content})
	}
	return chosen, nil
}

func (r *run) inspect(_ context.Context, env handlers.Env) error {
	r.says = map[string]inspected{}
	var errs []error
	for _, f := range r.wanted {
		found, err := r.rules.inspect(f, r.cfg.Certificates.live())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if site := parseName(f.name).site; found.certificate {
			one := r.says[site]
			one.names = unique(append(one.names, found.names...))
			r.says[site] = one
			if len(found.others) > 0 && !r.same {
				env.Say("%s: no certificate is asked for the names %q", site, found.others)
			}
		}
	}
	return errors.Join(errs...)
}

func (r *run) stage(context.Context, handlers.Env) (err error) {
	r.tree, err = r.layout.stage(r.job.Commit, r.wanted)
	return err
}

func (r *run) switchTree(_ context.Context, env handlers.Env) error {
	old, err := r.layout.current()
	if err != nil {
		return err
	}
	// What stands may have been changed since it was looked at.
	moves, _, err := r.layout.linkChanges(r.wanted)
	if err != nil {
		return err
	}
	for _, m := range moves {
		env.Say("link %s: %s -> %s", r.layout.path(m), orNone(m.Old), orNone(m.New))
	}
	env.Say("%s -> %s", orNone(old), r.tree)
	return r.layout.apply(journal{Old: old, New: r.tree, Links: moves})
}

// recover undoes a switch that was cut short.
func (r *run) recover(ctx context.Context, env handlers.Env) error {
	if left, err := r.layout.left(); err != nil || left == nil {
		return err
	}
	env.Say("an earlier run was cut short in the middle of a switch: %s", r.undo(ctx, env))
	if left, err := r.layout.left(); err != nil || left != nil {
		return fmt.Errorf("the switch of an earlier run cannot be undone: %w", err)
	}
	return nil
}

// undo puts back what a switch without an end has changed, has nginx serve it, and says
// what serves now.
func (r *run) undo(ctx context.Context, env handlers.Env) string {
	if !r.chosen {
		return ""
	}
	left, err := r.layout.left()
	if err != nil {
		return err.Error()
	}
	if left == nil {
		return ""
	}
	serves := "the tree " + left.Old + " is back in place"
	if left.Old == "" {
		serves = "the links are as they were before the first deploy"
	}
	if err := errors.Join(r.forgetServed(), r.layout.undo(*left)); err != nil {
		return fmt.Sprintf("and the switch to %s could not be undone, which the next deploy will try again: %v", left.New, err)
	}
	if _, err := r.callTest(ctx, env); err != nil {
		return fmt.Sprintf("%s, but nginx does not take it, either, and goes on with what it had: %v", serves, err)
	}
	if err := r.callReload(ctx, env); err != nil {
		return fmt.Sprintf("%s, but the reload was not seen: %v", serves, err)
	}
	return serves + " and serves"
}

// callTest has nginx test what stands, and returns the files that it reads, where root tells.
func (r *run) callTest(ctx context.Context, env handlers.Env) (reads []string, err error) {
	var said bytes.Buffer
	err = env.AsRoot(ctx, io.MultiWriter(&said, out(env)), names.VerbNginxTest)
	var emerg []string
	for line := range strings.Lines(said.String()) {
		line = strings.TrimSpace(line)
		if name, is := strings.CutPrefix(line, "# configuration file "); is {
			reads = append(reads, resolved(strings.TrimSuffix(name, ":")))
		}
		if strings.Contains(line, "[emerg]") || strings.Contains(line, "[crit]") {
			emerg = append(emerg, line)
		}
	}
	if err != nil {
		return nil, withLines(fmt.Errorf("nginx -t: %w", err), emerg)
	}
	return reads, nil
}

// withLines adds what nginx said to an error.
func withLines(err error, lines []string) error {
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.Join(lines, "; "))
}

func out(env handlers.Env) io.Writer {
	if env.Out == nil {
		return io.Discard
	}
	return env.Out
}

// resolved is a file's path without the links on the way to it: nginx.conf may name
// directories otherwise than conf_dir.
func resolved(name string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return name
	}
	return filepath.Join(dir, filepath.Base(name))
}

func (r *run) test(ctx context.Context, env handlers.Env) error {
	reads, err := r.callTest(ctx, env)
	if err != nil || len(reads) == 0 {
		return err
	}
	for _, f := range r.wanted {
		link := filepath.Join(r.cfg.ConfDir, f.name)
		if f.kind == sites && parseName(f.name).enabled && r.layout.leads(link, r.layout.target(sites, f.name)) && !slices.Contains(reads, resolved(link)) {
			return fmt.Errorf("nginx does not read %s: add `include %s;` to the http block of its nginx.conf", link, filepath.Join(r.cfg.ConfDir, "*"+path.Ext(f.name)))
		}
	}
	return nil
}

func (r *run) reload(ctx context.Context, env handlers.Env) error {
	if err := r.callReload(ctx, env); err != nil {
		return err
	}
	r.state.Served = r.tree
	if err := r.state.write(r.cfg.StateFile); err != nil {
		return err
	}
	if left, err := r.layout.left(); err != nil || left == nil {
		return err
	}
	return r.layout.forget()
}

func (r *run) forgetServed() error {
	s, err := readState(r.cfg.StateFile)
	if err != nil || s.Served == "" {
		return err
	}
	s.Served = ""
	return s.write(r.cfg.StateFile)
}
