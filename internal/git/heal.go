package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

const (
	// freshName is a directory beside .git in which a clone is made, damagedName
	// one in the new .git with what was there before.
	freshName   = ".git.durhack-deployer"
	damagedName = "durhack-deployer.damaged"
)

// heal puts right what a loss of power has emptied or filled with zeros: HEAD,
// refs, the configuration. Without a HEAD git does not take the directory for a
// repository, and a ref that is empty cannot be fetched into. It goes on with what a renewal that was killed has left.
func (r *Repo) heal() error {
	gitDir := filepath.Join(r.dir, ".git")
	r.takeOver()
	var bad []string
	_ = filepath.WalkDir(filepath.Join(gitDir, "refs"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !isRef(name) {
			bad = append(bad, name)
		}
		return nil
	})
	for _, name := range bad {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("remove a damaged ref: %w", err)
		}
	}
	config := filepath.Join(gitDir, "config")
	if b, err := readFile(config); err == nil && bytes.IndexByte(b, 0) >= 0 {
		if err := os.Rename(config, config+".damaged"); err != nil {
			return fmt.Errorf("move a damaged configuration: %w", err)
		}
	}
	head := filepath.Join(gitDir, "HEAD")
	if _, err := os.Lstat(head); err != nil || isRef(head) { // where there is none, init is yet to come
		return nil //nolint:nilerr // see above
	}
	_ = os.Remove(head) // whatever it is
	if err := os.WriteFile(head, []byte(r.lastHead()+"\n"), 0o644); err != nil {
		return fmt.Errorf("write HEAD again: %w", err)
	}
	return nil
}

func isRef(name string) bool {
	b, err := readFile(name)
	text := strings.TrimSpace(string(b))
	return err == nil && (names.Commit(text) || strings.HasPrefix(text, "ref: refs/"))
}

// lastHead is what HEAD was set to last, as far as is known: else a branch that
// is not there.
func (r *Repo) lastHead() string {
	b, err := readFile(filepath.Join(r.dir, ".git", "logs", "HEAD"))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if fields := strings.Fields(lines[len(lines)-1]); err == nil && len(fields) > 1 && names.Commit(fields[1]) {
		return fields[1]
	}
	return "ref: refs/heads/" + unborn
}

// damaged says whether objects of a commit that was fetched are missing, or
// cannot be read.
func (r *Repo) damaged(ctx context.Context, commit string) bool {
	list, err := r.tree(ctx, commit)
	if err != nil {
		return ctx.Err() == nil && !errors.Is(err, errOutside)
	}
	var hashes bytes.Buffer
	for _, e := range list {
		if e.mode != modeSubmodule {
			fmt.Fprintln(&hashes, e.hash)
		}
	}
	var found bytes.Buffer
	err = r.feed(ctx, hashes.Bytes(), &found, "cat-file", "--batch-check", "--buffer")
	if err == nil && !bytes.Contains(found.Bytes(), []byte(" missing\n")) {
		err = r.feed(ctx, hashes.Bytes(), io.Discard, "cat-file", "--batch", "--buffer")
		return err != nil && ctx.Err() == nil
	}
	return ctx.Err() == nil
}

// damage is how git speaks of a repository that it cannot read. It could not read
// other things, too: a user name, from the remote.
var damage = regexp.MustCompile(`object file \S+ is empty|is corrupt|bad object|not a valid object|cannot read existing object|([Uu]nable to|[Cc]ould not) (read|parse) (sha1 file|object|commit|tree|blob|tag|[0-9a-f]{7,})|missing (blob|tree|commit|object)|did not send all necessary objects|unresolved deltas|(unexpected|unterminated) line in`)

// isDamage says whether git failed because of what is in the repository, as far as
// its words tell.
func isDamage(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && damage.MatchString(e.Message)
}

// renew clones again beside .git and puts the clone in its place. The working tree
// with all that is untracked stays as it is, and so does the index, which knows
// what is tracked. The old one is kept in .git, until the next time.
func (r *Repo) renew(ctx context.Context, commit string, out io.Writer) error {
	gitDir, beside := filepath.Join(r.dir, ".git"), filepath.Join(r.dir, freshName)
	if store := r.lender(); store != nil {
		if err := store.repair(ctx, commit, out); err != nil {
			return err
		}
	}
	say(out, "the clone in %s is damaged: cloning again beside it", r.dir)
	if err := os.RemoveAll(beside); err != nil {
		return fmt.Errorf("clone again: %w", err)
	}
	fresh := *r
	fresh.dir = beside
	if err := fresh.EnsureClone(ctx, commit, out); err != nil {
		return fmt.Errorf("clone again: %w", err)
	}
	// As long as it is not complete nobody else may look into it.
	if err := os.Chmod(beside, 0o700); err != nil {
		return fmt.Errorf("clone again: %w", err)
	}
	// People may have set how the remote is reached.
	config := filepath.Join(gitDir, "config")
	if _, err := fresh.output(ctx, beside, "config", "--file", config, "--list"); err == nil {
		b, err := readFile(config)
		if err == nil {
			err = os.WriteFile(filepath.Join(beside, ".git", "config"), b, 0o644)
		}
		if err != nil {
			return fmt.Errorf("clone again: %w", err)
		}
	}
	from := fresh.fromStore()
	err := from.fetch(ctx, out, commit)
	if err != nil && ctx.Err() == nil { // a remote that gives no commits by their hashes
		err = from.fetch(ctx, out, r.allBranches())
	}
	if err != nil {
		_ = os.RemoveAll(beside)
		return fmt.Errorf("clone again: %w", cause(ctx, err))
	}
	freshDir := filepath.Join(beside, ".git")
	if head, err := r.Head(ctx); err == nil && head != "" {
		if has, err := fresh.Has(ctx, head); err == nil && has {
			if err := os.WriteFile(filepath.Join(freshDir, "HEAD"), []byte(head+"\n"), 0o644); err != nil {
				return fmt.Errorf("clone again: %w", err)
			}
		}
	}
	// The lock that is held stays the lock.
	if err := os.Remove(filepath.Join(freshDir, lockName)); err != nil {
		return fmt.Errorf("clone again: %w", err)
	}
	for _, name := range []string{lockName, targetName, "index"} {
		if err := os.Link(filepath.Join(gitDir, name), filepath.Join(freshDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clone again: %w", err)
		}
	}
	_ = os.RemoveAll(filepath.Join(gitDir, damagedName)) // of the last time
	if err := os.Rename(gitDir, filepath.Join(freshDir, damagedName)); err != nil {
		return fmt.Errorf("clone again: %w", err)
	}
	return r.replace()
}

// replace ends a renewal, also one that was killed: .git is in the new one by now.
func (r *Repo) replace() error {
	beside := filepath.Join(r.dir, freshName)
	if _, err := os.Lstat(filepath.Join(beside, ".git", damagedName)); err != nil {
		return nil //nolint:nilerr // there is none
	}
	if err := os.Rename(filepath.Join(beside, ".git"), filepath.Join(r.dir, ".git")); err != nil {
		return fmt.Errorf("clone again: %w", err)
	}
	r.takeOver()
	return nil
}

// takeOver takes from a .git that was damaged what no fetch brings: git
// directories of submodules and LFS objects, and what people have set.
func (r *Repo) takeOver() {
	gitDir := filepath.Join(r.dir, ".git")
	before := filepath.Join(gitDir, damagedName)
	if _, err := os.Lstat(before); err != nil {
		return
	}
	_ = os.Remove(filepath.Join(r.dir, freshName))
	for _, name := range []string{"modules", "lfs", "info", "hooks"} {
		if _, err := os.Lstat(filepath.Join(gitDir, name)); errors.Is(err, fs.ErrNotExist) {
			_ = os.Rename(filepath.Join(before, name), filepath.Join(gitDir, name))
		}
	}
}
