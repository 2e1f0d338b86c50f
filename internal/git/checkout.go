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
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// targetName is a file in .git with the hash that a checkout is on the way to.
const targetName = "durhack-deployer.target"

// Checkout puts exactly commit into the working tree, detached. Local edits of
// tracked files are overwritten, also where git was told not to look at them
// (assume-unchanged, skip-worktree, sparse checkouts). Untracked and ignored
// files stay: where one is in the way of a file of the commit, the error is an
// *ObstructedError and nothing is changed.
//
// A checkout that was cut short leaves files that the index does not know. They
// are those of its target, which is therefore written down first. A later
// checkout takes them for tracked ones; it never has to complete the earlier one.
func (r *Repo) Checkout(ctx context.Context, commit string, out io.Writer) error {
	defer r.opts.As.Enter()()
	if err := checkHash(commit); err != nil {
		return fmt.Errorf("checkout: %w", err)
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = r.checkout(ctx, commit, out)
	if _, obstructed := errors.AsType[*ObstructedError](err); err != nil && !obstructed && (isDamage(err) || r.damaged(ctx, commit)) {
		say(out, "%v", err)
		if err = r.renew(ctx, commit, out); err == nil {
			err = r.checkout(ctx, commit, out)
		}
	}
	r.sweep()
	if err != nil {
		return fmt.Errorf("checkout %s: %w", commit, err)
	}
	return nil
}

func (r *Repo) checkout(ctx context.Context, commit string, out io.Writer) error {
	wanted, err := r.tree(ctx, commit)
	if err != nil {
		return err
	}
	tracked, hidden, err := r.trustedIndex(ctx, out)
	if err != nil {
		return err
	}
	target := filepath.Join(r.dir, ".git", targetName)
	half, interrupted, err := r.interrupted(ctx, target)
	if err != nil {
		return err
	}
	left := r.leftSubmodules(ctx, tracked, wanted)
	ours := maps.Clone(half)
	maps.Copy(ours, tracked)
	for _, list := range left {
		maps.Copy(ours, list)
	}
	if err := r.obstructed(wanted, ours); err != nil {
		return err
	}
	if err := r.removeStrays(half, tracked, wanted); err != nil {
		return err
	}
	if err := r.removeSubmodules(left); err != nil {
		return err
	}
	if err := os.WriteFile(target, []byte(commit+"\n"), 0o600); err != nil {
		return err
	}
	again := hidden
	if interrupted { // what was written may be half a file, or by other attributes
		again = tracked
	} else {
		maps.Copy(again, reattributed(tracked, wanted))
	}
	if err := r.forget(ctx, again); err != nil {
		return err
	}
	// git 2.39 does not take --end-of-options here; a full hash needs none, and
	// -- keeps it from being a file name.
	if err := r.run(ctx, r.dir, nil, out, "checkout", "--force", "--detach", commit, "--"); err != nil {
		return err
	}
	head, err := r.Head(ctx)
	if err != nil {
		return err
	}
	if head != commit {
		return fmt.Errorf("HEAD is at %q afterwards", head)
	}
	if r.opts.Submodules {
		if err := r.submodules(ctx, wanted, out); err != nil {
			return err
		}
	}
	if pointers, err := r.LFSPointers(ctx); err == nil && len(pointers) > 0 {
		say(out, "warning: %s", PointersText(pointers))
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// interrupted is what the checkout was on the way to that was cut short here, if
// one was. Where its commit is gone, nothing can be told of it.
func (r *Repo) interrupted(ctx context.Context, target string) (files, bool, error) {
	b, err := readFile(target)
	if errors.Is(err, fs.ErrNotExist) {
		return files{}, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	commit := strings.TrimSpace(string(b))
	if !names.Commit(commit) { // lost with the power
		return files{}, true, nil
	}
	half, err := r.tree(ctx, commit)
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, err
		}
		half = files{}
	}
	return half, true, nil
}

// trustedIndex is index; where it was lost (a power loss leaves it empty), it is
// made again from HEAD, so that git knows which files are tracked.
func (r *Repo) trustedIndex(ctx context.Context, out io.Writer) (tracked, hidden files, err error) {
	tracked, hidden, err = r.index(ctx)
	if err == nil && len(tracked) > 0 || ctx.Err() != nil {
		return tracked, hidden, err
	}
	head, headErr := r.Head(ctx)
	if headErr != nil {
		return nil, nil, errors.Join(err, headErr)
	}
	if err == nil && head == "" { // the first checkout
		return tracked, hidden, nil
	}
	if err != nil {
		say(out, "the index is damaged and is made again: %v", err)
		if err := os.Remove(filepath.Join(r.dir, ".git", "index")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	if head == "" {
		return files{}, files{}, nil
	}
	if err := r.run(ctx, r.dir, nil, out, "read-tree", "--end-of-options", head); err != nil {
		if ctx.Err() != nil {
			return nil, nil, err
		}
		// Lost as well: then every file counts as untracked.
		return files{}, files{}, nil
	}
	// It tells what is unchanged, so that it is not written again, and fails
	// where something is not.
	if err := r.run(ctx, r.dir, io.Discard, nil, "update-index", "-q", "--refresh"); err != nil && exitCode(err) != 1 {
		return nil, nil, err
	}
	return r.index(ctx)
}

// reattributed are the tracked files that a change of .gitattributes may be
// about: git by itself writes only those whose content is another.
func reattributed(tracked, wanted files) files {
	changed := map[string]bool{}
	for _, list := range []files{tracked, wanted} {
		for name := range list {
			if path.Base(name) == ".gitattributes" && tracked[name] != wanted[name] {
				changed[path.Dir(name)] = true
			}
		}
	}
	about := files{}
	if len(changed) == 0 {
		return about
	}
	for name, e := range tracked {
		for dir := path.Dir(name); ; dir = path.Dir(dir) {
			if changed[dir] {
				about[name] = e
			}
			if dir == "." {
				break
			}
		}
	}
	return about
}

// say writes a line for people; out may be nil.
func say(out io.Writer, format string, args ...any) {
	if out != nil {
		fmt.Fprintf(out, format+"\n", args...)
	}
}
