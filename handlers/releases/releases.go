// Package releases deploys each commit into a directory of its own. What is live is a
// link to one of them, which is replaced once the commit is built: so nothing is ever
// half built where the app runs, and what was live before is put back without a build.
//
//	PATH/releases/COMMIT   a working tree, with its build
//	PATH/shared            what all releases have in common, linked into each
//	PATH/current           the link
//
// A mark in a release says that it was built to the end. It is written before the link
// leads there, so that whatever ends a run leaves a whole release live.
package releases

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// Config is one deployment's. It was checked where it was read.
type Config struct {
	// Path holds everything.
	Path string
	// Keep is how many releases stay, with the live one.
	Keep int
	// Shared are paths inside of each release, which all releases have in common.
	Shared []string
	// Build names what is done to a commit: a release of another build is built again.
	Build string
}

// Current is the link to the release that is live, in Path.
const Current = "current"

// releaseVar tells steps where the release is.
const releaseVar = "DURHACK_RELEASE"

func (c Config) current() string          { return filepath.Join(c.Path, Current) }
func (c Config) dir(commit string) string { return filepath.Join(c.Path, "releases", commit) }
func (c Config) mark(commit string) string {
	return filepath.Join(c.dir(commit), ".git", "durhack-deployer.whole")
}
func (c Config) shared(name string) string  { return filepath.Join(c.Path, "shared", name) }
func (c Config) whole(commit string) string { b, _ := os.ReadFile(c.mark(commit)); return string(b) }

// live is the commit of the release that is live; "" where none is.
func (c Config) live() string {
	target, err := os.Readlink(c.current())
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// New makes the plans of a handler, whose steps work in the Path of its source, work
// in a release, and put that live after its steps that build and look.
func New(src source.Source, cfg Config, in func(source.Source) handlers.Handler) handlers.Handler {
	return building{cfg, src, in}
}

type building struct {
	Config
	src source.Source
	in  func(source.Source) handlers.Handler
}

func (b building) Plan(ctx context.Context, job handlers.Job) (handlers.Plan, error) {
	r := &release{Config: b.Config, job: job, dir: b.dir(job.Commit)}
	src := b.src
	src.Path = r.dir
	plan, err := b.in(src).Plan(ctx, job)
	if err != nil {
		return plan, err
	}
	goLive := handlers.Step{Name: names.StepSwitch, Describe: fmt.Sprintf("lead %s to the release", b.current()), Run: r.goLive}
	live := slices.IndexFunc(plan.Steps, func(s handlers.Step) bool { return s.Stage == handlers.Live })
	if live < 0 {
		live = len(plan.Steps)
	}
	var steps []handlers.Step
	for _, s := range plan.Steps[:live] {
		steps = append(steps, r.within(s))
		if s.Name == names.StepCheckout && len(b.Shared) > 0 {
			steps = append(steps, r.within(handlers.Step{
				Name: names.StepShared, Describe: "link " + strings.Join(b.Shared, ", ") + " of " + b.shared("") + " into the release", Run: r.link,
			}))
		}
	}
	plan.Steps = slices.Concat(steps, []handlers.Step{goLive}, plan.Steps[live:])
	plan.Undo = func(context.Context, handlers.Env) string { return source.Stands(b.current(), b.live(), job) }
	return plan, nil
}

// release is what the steps of one plan know of it.
type release struct {
	Config
	job handlers.Job
	dir string
	// whole says that it is there, with its build; kept that it is there and is used,
	// and has to be built again where it is.
	whole, kept bool
}

// within makes a step work in the release, where there is something to do.
func (r *release) within(s handlers.Step) handlers.Step {
	run := s.Run
	s.Run = func(ctx context.Context, env handlers.Env) error {
		if s.Name == names.StepFetch {
			if err := r.prepare(ctx, env); err != nil {
				return err
			}
		}
		if r.whole && s.Stage == handlers.Build || r.kept && slices.Contains([]string{names.StepFetch, names.StepCheckout, names.StepShared}, s.Name) {
			env.Say("nothing to do: %s is there already", r.dir)
			return nil
		}
		env.Vars = append(slices.Clip(env.Vars), releaseVar+"="+r.dir)
		return run(ctx, env)
	}
	return s
}

// prepare looks at what is there of the release, and removes what is not whole.
func (r *release) prepare(ctx context.Context, env handlers.Env) error {
	if info, err := os.Lstat(r.current()); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%s is not the link to a release; move it away", r.current())
	}
	if _, err := os.Lstat(filepath.Join(r.Path, ".git")); err == nil {
		env.Say("%s is a working tree from before it had releases: nothing is deployed into that any more", r.Path)
	}
	r.prune(ctx, env, math.MaxInt) // half ones would fill the disk, and then no push succeeds
	build := r.Config.whole(r.job.Commit)
	r.whole = build == r.Build && build != ""
	if r.whole {
		return nil
	}
	if r.kept = build != "" && (r.live() == r.job.Commit || inUse(r.dir)); r.kept {
		env.Say("what builds a release has changed: the build runs again in %s, which is used meanwhile", r.dir)
		return nil
	}
	return r.remove(r.job.Commit)
}

// remove removes a release; what is left of one that was being removed has no name of one.
func (c Config) remove(commit string) error {
	gone := c.dir("." + commit + ".gone")
	err := os.RemoveAll(gone)
	if err == nil {
		err = os.Rename(c.dir(commit), gone)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil {
		return fmt.Errorf("remove a release: %w", err)
	}
	return nil
}

// link puts links to what is shared into the release.
func (r *release) link(_ context.Context, env handlers.Env) error {
	root, err := os.OpenRoot(r.dir) // links in the commit lead to nowhere else
	if err != nil {
		return fmt.Errorf("open the release: %w", err)
	}
	defer root.Close()
	for _, name := range r.Shared {
		common := r.shared(name)
		committed, inCommit := root.Lstat(name)
		if _, err := os.Stat(common); errors.Is(err, fs.ErrNotExist) {
			switch {
			case filepath.Ext(name) == "" && (inCommit != nil || !committed.Mode().IsRegular()):
				if err := os.MkdirAll(common, 0o755); err != nil {
					return fmt.Errorf("make what is shared: %w", err)
				}
			case inCommit == nil:
				return fmt.Errorf("%s is not there, and takes the place of what the commit has as %s; put it there", common, name)
			default:
				env.Say("%s is not there yet, so that %s leads nowhere", common, name)
			}
		}
		err := root.RemoveAll(name)
		if err == nil {
			err = root.MkdirAll(filepath.Dir(name), 0o755)
		}
		if err == nil {
			err = root.Symlink(common, name)
		}
		if err != nil {
			return fmt.Errorf("link what is shared: %w", err)
		}
	}
	return nil
}

// goLive marks the release as whole, and makes it the one that is live.
func (r *release) goLive(_ context.Context, env handlers.Env) error {
	if !r.whole {
		if err := syncFiles(r.dir); err != nil {
			return fmt.Errorf("write the release to disk: %w", err)
		}
		if err := durable.WriteFile(r.mark(r.job.Commit), []byte(r.Build), 0o644); err != nil {
			return fmt.Errorf("mark the release as whole: %w", err)
		}
	}
	now := time.Now() // the order in which they were live
	if err := os.Chtimes(r.mark(r.job.Commit), now, now); err != nil {
		return fmt.Errorf("mark the release: %w", err)
	}
	next := r.current() + ".next"
	err := os.RemoveAll(next)
	if err == nil {
		err = os.Symlink(filepath.Join("releases", r.job.Commit), next)
	}
	if err == nil {
		err = os.Rename(next, r.current())
	}
	if err == nil {
		err = syncFiles(r.Path)
	}
	if err != nil {
		return fmt.Errorf("put the release live: %w", err)
	}
	env.Say("%s is live", r.dir)
	return nil
}

// syncFiles writes everything on the file system of a directory to disk.
func syncFiles(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// Pruned makes plans end with a step that removes old releases. What it cannot remove
// fails no deploy.
func Pruned(h handlers.Handler, cfg Config) handlers.Handler { return pruned{h, cfg} }

type pruned struct {
	handlers.Handler
	cfg Config
}

func (p pruned) Plan(ctx context.Context, job handlers.Job) (handlers.Plan, error) {
	plan, err := p.Handler.Plan(ctx, job)
	if err != nil {
		return plan, err
	}
	plan.Steps = append(plan.Steps[:len(plan.Steps):len(plan.Steps)], handlers.Step{
		Name: names.StepPrune, Describe: fmt.Sprintf("keep the last %d releases, and those in use", p.cfg.Keep),
		Run: func(ctx context.Context, env handlers.Env) error {
			p.cfg.prune(ctx, env, p.cfg.Keep)
			return nil
		},
	})
	return plan, nil
}

// prune removes what is not whole, and of what is all but the live release and those
// that were live last.
func (c Config) prune(ctx context.Context, env handlers.Env, keep int) {
	found, err := os.ReadDir(c.dir(""))
	if errors.Is(err, fs.ErrNotExist) {
		return
	} else if err != nil {
		env.Say("%v", err)
		return
	}
	type old struct {
		commit string
		last   time.Time
	}
	var others []old // zero is one that was never whole
	for _, e := range found {
		commit, gone := strings.CutSuffix(strings.TrimPrefix(e.Name(), "."), ".gone")
		if !names.Commit(commit) || !gone && commit == c.live() {
			continue
		}
		o := old{commit: commit}
		if info, err := os.Stat(c.mark(commit)); err == nil {
			o.last = info.ModTime()
		}
		others = append(others, o)
	}
	slices.SortFunc(others, func(a, b old) int { return cmp.Or(b.last.Compare(a.last), cmp.Compare(a.commit, b.commit)) })
	for i, o := range others {
		switch {
		case ctx.Err() != nil:
			return
		case i < keep-1 && !o.last.IsZero():
		case inUse(c.dir(o.commit)):
			env.Say("%s is kept: a process runs there", c.dir(o.commit))
		default:
			if err := c.remove(o.commit); err != nil {
				env.Say("%v", err)
				continue
			}
			env.Say("removed %s", c.dir(o.commit))
		}
	}
}

// inUse says whether a process works in the directory or runs a program of it, as far as we may know.
func inUse(dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		for _, link := range []string{link, filepath.Join(filepath.Dir(link), "exe")} {
			if at, err := os.Readlink(link); err == nil && (at == dir || strings.HasPrefix(at, dir+"/")) {
				return true
			}
		}
	}
	return false
}
