package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// exists says whether the directory has been cloned.
func (r *Repo) exists() bool { return exists(filepath.Join(r.dir, ".git", "HEAD")) }

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// detached is the commit that HEAD itself names, or empty where it names a
// branch: after our own checkouts it never does. It spares a push two gits on its
// way to the first step.
func (r *Repo) detached() string {
	b, err := readFile(filepath.Join(r.dir, ".git", "HEAD"))
	if commit := strings.TrimSpace(string(b)); err == nil && names.Commit(commit) {
		return commit
	}
	return ""
}

// Has says whether commit is in the local repository.
func (r *Repo) Has(ctx context.Context, commit string) (bool, error) {
	defer r.opts.As.Enter()()
	if err := checkHash(commit); err != nil {
		return false, fmt.Errorf("look for a commit: %w", err)
	}
	if !r.exists() {
		return false, nil
	}
	if r.detached() == commit {
		return true, nil
	}
	_, err := r.output(ctx, r.dir, "cat-file", "-e", "--end-of-options", commit+"^{commit}")
	switch exitCode(err) {
	case 1, 128: // not there; there, but not a commit
		return false, nil
	}
	return err == nil, err
}

// IsAncestor says whether a is an ancestor of b, or b itself. It is false where
// a is not known here: what is unknown has not been live. An unknown b is an error.
func (r *Repo) IsAncestor(ctx context.Context, a, b string) (bool, error) {
	defer r.opts.As.Enter()()
	if err := checkHash(b); err != nil {
		return false, fmt.Errorf("compare commits: %w", err)
	}
	if have, err := r.Has(ctx, a); err != nil || !have {
		return false, err
	}
	_, err := r.output(ctx, r.dir, "merge-base", "--is-ancestor", "--end-of-options", a, b)
	switch exitCode(err) {
	case 1:
		return false, nil
	case 128:
		if have, hasErr := r.Has(ctx, b); hasErr == nil && !have {
			return false, fmt.Errorf("compare commits: %s is not in %s", b, r.dir)
		}
	}
	return err == nil, err
}

// Head is the commit that is checked out, or empty where there is none yet, or
// where HEAD was lost: see heal.
func (r *Repo) Head(ctx context.Context) (string, error) {
	defer r.opts.As.Enter()()
	if !isRef(filepath.Join(r.dir, ".git", "HEAD")) {
		return "", nil
	}
	if commit := r.detached(); commit != "" {
		return commit, nil
	}
	head, err := r.output(ctx, r.dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	if exitCode(err) == 1 {
		return "", nil
	}
	if err == nil && !names.Commit(head) {
		err = fmt.Errorf("git rev-parse: %q is not a commit hash", head)
	}
	return head, err
}

// Unfinished is the commit that a checkout was on the way to when it failed or was
// cut short; empty where the last one came to its end.
func (r *Repo) Unfinished() (string, error) {
	defer r.opts.As.Enter()()
	b, err := readFile(filepath.Join(r.dir, ".git", targetName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if commit := strings.TrimSpace(string(b)); names.Commit(commit) {
		return commit, nil
	}
	return "unknown", nil // lost with the power
}

// Edited lists the tracked files, relative to the working tree, that are not what
// HEAD has: changed, removed or staged. Every file is read: what the index
// remembers, or hides (assume-unchanged, skip-worktree, sparse checkouts), does not
// count. It changes nothing. Submodules count where Options has them.
func (r *Repo) Edited(ctx context.Context) ([]string, error) {
	defer r.opts.As.Enter()()
	submodules := "--ignore-submodules=all"
	if r.opts.Submodules {
		submodules = "--ignore-submodules=untracked"
	}
	head, err := r.Head(ctx)
	if err != nil || head == "" {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "durhack-deployer-index-")
	if err != nil {
		return nil, fmt.Errorf("look for edited files in %s: %w", r.dir, err)
	}
	defer os.RemoveAll(dir)
	fresh := *r
	fresh.vars = []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := fresh.output(ctx, r.dir, "read-tree", "--end-of-options", head); err != nil {
		return nil, fmt.Errorf("look for edited files in %s: %w", r.dir, err)
	}
	text, err := fresh.list(ctx, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=no", submodules)
	if err != nil {
		return nil, fmt.Errorf("look for edited files in %s: %w", r.dir, err)
	}
	var names []string
	for entry := range strings.SplitSeq(text, "\x00") {
		if len(entry) > 3 { // two letters, a space, and the path
			names = append(names, entry[3:])
		}
	}
	converted, err := fresh.convertedOtherwise(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for edited files in %s: %w", r.dir, err)
	}
	names = append(names, converted...)
	// Staged changes, and an index that was lost.
	if text, err = r.list(ctx, "diff-index", "--cached", "--name-only", "-z", "--no-renames", "--ignore-submodules=all", "--end-of-options", head); err != nil {
		return nil, fmt.Errorf("look for staged files in %s: %w", r.dir, err)
	}
	names = append(names, strings.FieldsFunc(text, func(c rune) bool { return c == 0 })...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// convertedOtherwise lists the tracked files whose line ends are not those that
// .gitattributes asks for. To git they are unchanged: it converts them back first.
func (r *Repo) convertedOtherwise(ctx context.Context) ([]string, error) {
	text, err := r.list(ctx, "ls-files", "--eol", "-z")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.SplitSeq(text, "\x00") {
		info, name, _ := strings.Cut(line, "\t")
		field := strings.Fields(info) // i/lf w/crlf attr/text eol=crlf
		if len(field) != 4 || field[0] != "i/lf" || field[1] == "w/" {
			continue
		}
		if _, want, ok := strings.Cut(field[3], "eol="); ok && field[1] != "w/"+want {
			names = append(names, name)
		}
	}
	return names, nil
}

// RemoteTip is the commit at the tip of a branch of the remote, now. A branch
// that is not there is ErrRefNotFound.
func (r *Repo) RemoteTip(ctx context.Context, branch string) (string, error) {
	tips, err := r.RemoteTips(ctx, branch)
	if err == nil && tips[branch] == "" {
		err = fmt.Errorf("branch %q of %s: %w", branch, r.publicRemote(), ErrRefNotFound)
	}
	return tips[branch], err
}

// RemoteTips are the commits at the tips of branches of the remote, now, by branch,
// without those that are not there. It asks once.
func (r *Repo) RemoteTips(ctx context.Context, branches ...string) (map[string]string, error) {
	defer r.opts.As.Enter()()
	const heads = "refs/heads/"
	var names []string
	for _, branch := range branches {
		if err := checkBranch(branch); err != nil {
			return nil, fmt.Errorf("ask for the tip of a branch: %w", err)
		}
		names = append(names, heads+branch)
	}
	refs, err := r.lsRemote(ctx, names...)
	if err != nil {
		return nil, err
	}
	tips := map[string]string{}
	for _, branch := range branches {
		if tip := refs[heads+branch]; tip != "" {
			tips[branch] = tip
		}
	}
	return tips, nil
}

// Ref is a ref that a person named.
type Ref struct {
	// Name is the full ref, or empty where a hash was given.
	Name   string
	Commit string
}

// Resolve finds what a person means: a full hash, which is taken as it is; a full
// ref; a branch; or a tag (the commit that it stands for). Nothing found is
// ErrRefNotFound; see Beginning for the beginning of a hash.
func (r *Repo) Resolve(ctx context.Context, name string) (Ref, error) {
	defer r.opts.As.Enter()()
	if names.Commit(name) {
		return Ref{Commit: name}, nil
	}
	if err := checkBranch(name); err != nil {
		return Ref{}, fmt.Errorf("resolve a ref: %w", err)
	}
	full := []string{"refs/heads/" + name, "refs/tags/" + name}
	if strings.HasPrefix(name, "refs/") {
		full = []string{name}
	}
	var ask []string
	for _, n := range full {
		ask = append(ask, n, n+"^{}")
	}
	refs, err := r.lsRemote(ctx, ask...)
	if err != nil {
		return Ref{}, err
	}
	for _, n := range full {
		if peeled := refs[n+"^{}"]; peeled != "" {
			return Ref{Name: n, Commit: peeled}, nil
		}
		if refs[n] != "" {
			return Ref{Name: n, Commit: refs[n]}, nil
		}
	}
	return Ref{}, fmt.Errorf("%q in %s: %w", name, r.publicRemote(), ErrRefNotFound)
}

// Commit is a commit that is here already, and what tells it from others.
type Commit struct{ Hash, Date, Subject string }

// Authored is a commit's subject and its author's name.
type Authored struct{ Subject, Author string }

// Authored tells of the commits, of these, that are here already: nothing is fetched.
func (r *Repo) Authored(ctx context.Context, commits []string) (map[string]Authored, error) {
	defer r.opts.As.Enter()()
	for _, commit := range commits {
		if err := checkHash(commit); err != nil {
			return nil, fmt.Errorf("read who wrote commits: %w", err)
		}
	}
	if len(commits) == 0 || !r.exists() {
		return nil, nil
	}
	// --missing keeps git 2.39 from fetching what a partial clone lacks.
	text, err := r.output(ctx, r.dir, append([]string{"rev-list", "--missing=allow-any", "--ignore-missing", "--no-walk=unsorted", "--encoding=UTF-8",
		"--no-commit-header", "--format=%H%x00%an%x00%s", "--end-of-options"}, commits...)...)
	if err != nil {
		return nil, fmt.Errorf("read who wrote commits: %w", err)
	}
	told := map[string]Authored{}
	for line := range strings.Lines(text) {
		if field := strings.SplitN(strings.TrimSuffix(line, "\n"), "\x00", 3); len(field) == 3 {
			told[field[0]] = Authored{Subject: field[2], Author: field[1]}
		}
	}
	return told, nil
}

// Beginning lists the commits that are here already whose hash begins so.
func (r *Repo) Beginning(ctx context.Context, hash string) ([]Commit, error) {
	defer r.opts.As.Enter()()
	if !names.CommitBeginning(hash) || !r.exists() {
		return nil, nil
	}
	objects, err := r.output(ctx, r.dir, "rev-parse", "--disambiguate="+hash)
	if err != nil {
		return nil, fmt.Errorf("look for commits that begin with %s: %w", hash, err)
	}
	var commits []Commit
	for object := range strings.FieldsSeq(objects) {
		text, err := r.output(ctx, r.dir, "cat-file", "-t", "--end-of-options", object)
		if err != nil || text != "commit" {
			continue // a tree or a file; or one that is lost, which cannot be deployed
		}
		text, err = r.output(ctx, r.dir, "show", "--no-patch", "--no-show-signature", "--format=%cI %s", "--end-of-options", object)
		if err != nil {
			return nil, fmt.Errorf("read commit %s: %w", object, err)
		}
		date, subject, _ := strings.Cut(text, " ")
		commits = append(commits, Commit{object, date, subject})
	}
	return commits, nil
}

// lsRemote asks the remote for refs by their full names.
func (r *Repo) lsRemote(ctx context.Context, refs ...string) (map[string]string, error) {
	dir := r.dir
	// Inside the repository its configuration (an ssh key, say) counts.
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		dir = "/"
	}
	var text string
	err := r.patiently(ctx, passes, func() (err error) {
		text, err = r.contact(ctx, dir).output(ctx, dir, append([]string{"ls-remote", "--quiet", "--end-of-options", r.name}, refs...)...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask %s for its refs: %w", r.publicRemote(), err)
	}
	found := map[string]string{}
	for line := range strings.Lines(text) {
		hash, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if ok && names.Commit(hash) {
			// git matches the end of a name too; only an exact name is looked up.
			found[name] = hash
		}
	}
	return found, nil
}
