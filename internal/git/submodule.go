package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// submodules gives each submodule of the checkout the commit that it has there.
func (r *Repo) submodules(ctx context.Context, wanted files, out io.Writer) error {
	if len(submodulesOf(wanted)) == 0 {
		return nil
	}
	// The URL may be another by now; a relative one follows from origin's.
	if err := r.run(ctx, r.dir, nil, out, "submodule", "--quiet", "sync", "--recursive"); err != nil {
		return fmt.Errorf("submodules: %w", err)
	}
	if err := r.prepareSubmodules(ctx, wanted); err != nil {
		return fmt.Errorf("submodules: %w", err)
	}
	err := r.patiently(ctx, passes, func() error {
		return r.contact(ctx, r.dir).run(ctx, r.dir, nil, out, "submodule", "update", "--init", "--recursive", "--force", "--checkout")
	})
	if err != nil {
		return fmt.Errorf("submodules: %w", err)
	}
	return nil
}

// prepareSubmodules looks for untracked files in the way of submodules, and
// removes clones of them that were cut short, which git cannot use.
func (r *Repo) prepareSubmodules(ctx context.Context, wanted files) error {
	for _, name := range submodulesOf(wanted) {
		sub := r.submodule(name)
		if link, _ := sub.gitFile(); link == "" {
			// It will be cloned into its directory.
			if err := r.obstructedBelow(name); err != nil {
				return err
			}
			continue
		}
		if _, err := sub.output(ctx, sub.dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil {
			if ctx.Err() != nil {
				return err
			}
			list := files{}
			sub.addTracked(ctx, name, list)
			if err := errors.Join(r.removeSubmodules(map[string]files{name: list}), r.obstructedBelow(name)); err != nil {
				return err
			}
			continue
		}
		if err := sub.planted(ctx); err != nil {
			return err
		}
		commit := wanted[name].hash
		inside, err := sub.tree(ctx, commit)
		if err != nil { // not here yet
			_ = sub.run(ctx, sub.dir, nil, nil, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--end-of-options", "origin", commit)
			if inside, err = sub.tree(ctx, commit); err != nil {
				continue // update says why
			}
		}
		tracked, hidden, err := sub.index(ctx)
		if err != nil {
			return err
		}
		left := sub.leftSubmodules(ctx, tracked, inside)
		ours := maps.Clone(tracked)
		for _, list := range left {
			maps.Copy(ours, list)
		}
		if err := sub.obstructed(inside, ours); err != nil {
			return err
		}
		if err := errors.Join(sub.removeSubmodules(left), sub.forget(ctx, hidden)); err != nil {
			return err
		}
		if err := sub.prepareSubmodules(ctx, inside); err != nil {
			return err
		}
	}
	return nil
}

// planted is an error where the configuration of a submodule's clone, which a step can write
// to, has another program fetch. (Our own remote has a name that nobody can guess.)
func (r *Repo) planted(ctx context.Context) error {
	keys, err := r.output(ctx, r.dir, "config", "--local", "--includes", "--name-only", "--get-regexp", `^remote\..*\.(uploadpack|vcs)$`)
	if exitCode(err) == 1 {
		return nil
	}
	if err != nil {
		return err
	}
	key, _, _ := strings.Cut(keys, "\n")
	return fmt.Errorf("the configuration of %s names a program in %s; run `git -C %[1]s config --unset-all %[2]s` as the deployer's user, then deploy again", r.dir, key)
}

func submodulesOf(list files) []string {
	var names []string
	for name, e := range list {
		if e.mode == modeSubmodule {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// submodule is the working tree of a submodule, for questions.
func (r *Repo) submodule(name string) *Repo {
	sub := *r
	sub.dir = filepath.Join(r.dir, filepath.FromSlash(name))
	return &sub
}

// gitFile is the git directory that the file .git of a submodule names; empty where
// it is not checked out, or has a git directory of its own.
func (r *Repo) gitFile() (string, error) {
	b, err := readFile(filepath.Join(r.dir, ".git"))
	if err != nil {
		return "", err
	}
	link, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "gitdir: ")
	if !ok {
		return "", nil
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(r.dir, link)
	}
	return link, nil
}

// forgetClone removes the clone of a submodule and leaves its working tree.
func (r *Repo) forgetClone() error {
	link, err := r.gitFile()
	if err != nil {
		return err
	}
	// Only what git keeps for submodules, whatever the file says.
	if strings.Contains(link, "/.git/modules/") {
		if err := os.RemoveAll(link); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(r.dir, ".git"))
}

// leftSubmodules are the submodules that are checked out and that a commit does
// not have, each with its tracked files by their paths in r.
func (r *Repo) leftSubmodules(ctx context.Context, tracked, wanted files) map[string]files {
	left := map[string]files{}
	for _, name := range submodulesOf(tracked) {
		sub := r.submodule(name)
		if link, _ := sub.gitFile(); link == "" || wanted[name].mode == modeSubmodule {
			continue
		}
		list := files{}
		sub.addTracked(ctx, name, list)
		left[name] = list
	}
	return left
}

func (r *Repo) addTracked(ctx context.Context, at string, list files) {
	tracked, _, err := r.index(ctx)
	if err != nil {
		return // then they are in the way, if anything is
	}
	list[path.Join(at, ".git")] = entry{}
	for name, e := range tracked {
		list[path.Join(at, name)] = e
	}
	for _, name := range submodulesOf(tracked) {
		if sub := r.submodule(name); exists(filepath.Join(sub.dir, ".git")) {
			sub.addTracked(ctx, path.Join(at, name), list)
		}
	}
}

// removeSubmodules removes what git leaves of submodules that are no more: tracked
// files and clones. Untracked files stay.
func (r *Repo) removeSubmodules(left map[string]files) error {
	for _, name := range slices.Sorted(maps.Keys(left)) {
		if err := r.submodule(name).forgetClone(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove submodule %s: %w", name, err)
		}
		if err := r.removeStrays(left[name], nil, nil); err != nil {
			return fmt.Errorf("remove submodule %s: %w", name, err)
		}
	}
	return nil
}
