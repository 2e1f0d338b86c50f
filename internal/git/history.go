package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// Knows says whether the commit is here with everything that led to it, so that
// IsAncestor can be trusted about it. In a shallow clone it may not be.
func (r *Repo) Knows(ctx context.Context, commit string) (bool, error) {
	defer r.opts.As.Enter()()
	if have, err := r.Has(ctx, commit); err != nil || !have {
		return false, err
	}
	shallow, err := r.shallow()
	if err != nil || len(shallow) == 0 {
		return err == nil, err
	}
	// Where the history is cut off, git takes a commit for a first one.
	roots, err := r.output(ctx, r.dir, "rev-list", "--max-parents=0", "--end-of-options", commit)
	if err != nil {
		return false, fmt.Errorf("look for the beginning of the history of %s: %w", commit, err)
	}
	for root := range strings.SplitSeq(roots, "\n") {
		if slices.Contains(shallow, root) {
			return false, nil
		}
	}
	return true, nil
}

// shallow lists the commits whose parents were left out of a shallow clone.
func (r *Repo) shallow() ([]string, error) {
	b, err := readFile(filepath.Join(r.dir, ".git", "shallow"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look whether %s is a shallow clone: %w", r.dir, err)
	}
	return strings.Fields(string(b)), nil
}

// FetchHistory makes the commit known with everything that led to it, cloning
// first where there is no clone yet; a shallow clone becomes a whole one. The
// working tree is left alone.
func (r *Repo) FetchHistory(ctx context.Context, branch, commit string, out io.Writer) error {
	defer r.opts.As.Enter()()
	if err := errors.Join(checkBranch(branch), checkHash(commit)); err != nil {
		return fmt.Errorf("fetch the history: %w", err)
	}
	if known, err := r.Knows(ctx, commit); err != nil || known {
		return err
	}
	if err := r.EnsureClone(ctx, commit, out); err != nil {
		return err
	}
	// A commit that was live existed: it is not waited for as one that was
	// pushed just now.
	there := func(err error) bool { return passes(err) && !isMissing(err) }
	err := r.patiently(ctx, there, func() error { return r.fetchHistory(ctx, branch, commit, out) })
	if err != nil {
		return fmt.Errorf("fetch the history of commit %s: %w", commit, err)
	}
	return nil
}

// Kin compares a commit that is known with many at once: before are those that led
// to it, after those that came from it, and unknown those that are not known.
func (r *Repo) Kin(ctx context.Context, commit string, others []string) (before, after, unknown map[string]bool, err error) {
	defer r.opts.As.Enter()()
	fail := func(err error) (_, _, _ map[string]bool, _ error) {
		return nil, nil, nil, fmt.Errorf("compare commits: %w", err)
	}
	for _, c := range append([]string{commit}, others...) {
		if err := checkHash(c); err != nil {
			return fail(err)
		}
	}
	shallow, err := r.shallow()
	if err != nil {
		return fail(err)
	}
	var types bytes.Buffer
	err = r.feed(ctx, []byte(strings.Join(others, "^{commit}\n")+"^{commit}\n"), &types, "cat-file", "--batch-check=%(objecttype)")
	if err != nil && exitCode(err) != 128 { // a partial clone asks its remote for each that it lacks, and gives up there
		return fail(err)
	}
	found := strings.Split(types.String(), "\n")
	before, after, unknown = map[string]bool{}, map[string]bool{}, map[string]bool{}
	ask := "^" + commit + "\n"
	for i, other := range others {
		if i < len(found) && found[i] == "commit" && len(shallow) == 0 { // where the history is cut off, each is asked by itself
			before[other] = true
			ask += other + "\n"
		} else {
			unknown[other] = true
		}
	}
	// All that did not lead to the commit, each line a commit and its parents, which come first.
	var lines bytes.Buffer
	if err := r.feed(ctx, []byte(ask), &lines, "rev-list", "--topo-order", "--reverse", "--parents", "--stdin"); err != nil {
		return fail(err)
	}
	for line := range strings.Lines(lines.String()) {
		hashes := strings.Fields(line)
		delete(before, hashes[0])
		if slices.ContainsFunc(hashes[1:], func(parent string) bool { return parent == commit || after[parent] }) {
			after[hashes[0]] = true
		}
	}
	return before, after, unknown, nil
}

func (r *Repo) fetchHistory(ctx context.Context, branch, commit string, out io.Writer) error {
	from, err := r.supplied(ctx, branch, commit, out)
	if err != nil {
		return err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, byBranch := range []bool{true, false} {
		shallow, err := r.shallow()
		if err != nil {
			return err
		}
		var whole []string
		if len(shallow) > 0 {
			whole = []string{"--depth=2147483647"} // git's word for no limit
		}
		if byBranch {
			err = from.fetchBranch(ctx, out, branch, whole...)
		} else {
			err = from.fetch(ctx, out, commit, whole...)
		}
		if err != nil && (!isMissing(err) || !byBranch) {
			return cause(ctx, err)
		}
		if known, err := r.Knows(ctx, commit); err != nil || known {
			return err
		}
	}
	return errors.New("the remote does not have all of it; is the remote a shallow clone itself?")
}

var errTipLate = errors.New("the branch is where it was before the push")

// TipAfter is RemoteTip after a push that moved the branch away from before. A
// remote that still has the branch there is late, and a patient Repo waits for
// it; after that the tip is what the remote says.
func (r *Repo) TipAfter(ctx context.Context, branch, before string) (string, error) {
	defer r.opts.As.Enter()()
	var tip string
	var missing error
	late := func(err error) bool { return errors.Is(err, errTipLate) }
	err := r.patiently(ctx, late, func() error {
		var err error
		tip, err = r.RemoteTip(ctx, branch)
		if missing = nil; errors.Is(err, ErrRefNotFound) {
			missing, err = err, nil
		}
		created := before != "" && strings.Trim(before, "0") == ""
		if err == nil && (tip != "" && tip == before || tip == "" && created) {
			err = errTipLate
		}
		return err
	})
	if err == nil || late(err) && ctx.Err() == nil {
		return tip, missing
	}
	return "", err
}
