package git

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// ErrRefNotFound says that the remote has no such ref.
var ErrRefNotFound = errors.New("the remote has no such ref")

// NotRepositoryError says that the directory is somebody else's.
type NotRepositoryError struct{ Dir, Detail string }

func (e *NotRepositoryError) Error() string {
	return fmt.Sprintf("%s %s; move it away, or clone the repository there by hand", e.Dir, e.Detail)
}

// MovedRemoteError says that the configuration names another repository than the one
// that was cloned.
type MovedRemoteError struct{ Dir, Have, Want string }

func (e *MovedRemoteError) Error() string {
	return fmt.Sprintf("%s was cloned from %s, and the configuration says %s; if that is the same repository in its new place, run `git -C %[1]s remote set-url origin %[3]s` as the deployer's user, "+
		"else move %[1]s away, and it is cloned again; then deploy again", e.Dir, e.Have, e.Want)
}

// repository is what of a remote says which repository it is: how it is reached, and as
// whom, may change. Names of hosts are left out, too: ssh has others for them.
func repository(remote string) string {
	scheme, rest, isURL := strings.Cut(remote, "://")
	host, at, _ := strings.Cut(rest, "/")
	switch {
	case isURL && scheme == "file":
		at = rest
	case !isURL && !strings.HasPrefix(remote, "/"): // user@host:path
		_, at, _ = strings.Cut(remote, ":")
	case !isURL:
		at = remote
	case host == "":
		at = remote
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(path.Clean(at), "/"), ".git"))
}

// unborn is the branch of a HEAD that has no commit yet.
const unborn = "durhack-deployer"

// EnsureClone makes the directory a repository if it is missing or empty, with
// the object format of the commit, and points origin at the remote (for people: we
// ourselves fetch by URL). It downloads nothing. It repairs what a killed
// EnsureClone left behind. A directory with other content is a *NotRepositoryError.
func (r *Repo) EnsureClone(ctx context.Context, commit string, out io.Writer) error {
	if err := checkHash(commit); err != nil {
		return fmt.Errorf("make a clone: %w", err)
	}
	if err := process.Outside(func() error { return r.opts.As.Provide(cmp.Or(r.opts.Base, r.dir)) }); err != nil {
		return fmt.Errorf("make the working tree: %w", err)
	}
	defer r.opts.As.Enter()()
	gitDir := filepath.Join(r.dir, ".git")
	if err := r.prepareDir(gitDir); err != nil {
		return err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	format := "sha1"
	if len(commit) == hex.EncodedLen(sha256.Size) {
		format = "sha256"
	}
	have, err := r.output(ctx, r.dir, "rev-parse", "--show-object-format", "--show-toplevel")
	have, top, _ := strings.Cut(have, "\n")
	switch {
	case ctx.Err() != nil:
		return err
	case err == nil && !sameDir(top, r.dir):
		return fmt.Errorf("the repository in %s has its files in %s; run `git -C %[1]s config --unset core.worktree` as the deployer's user, then deploy again", r.dir, top)
	case err == nil && have != format:
		return fmt.Errorf("the repository in %s is of the format %s, and commit %s is of %s; move it away, and it will be cloned again", r.dir, have, commit, format)
	case err != nil:
		if err := r.borrow(ctx, commit, out); err != nil {
			return err
		}
		// Again after a kill it completes what is there. No template: hooks and
		// examples have no use here.
		if err := r.run(ctx, r.dir, nil, out, "init", "--quiet", "--template=", "--initial-branch="+unborn, "--object-format="+format); err != nil {
			return fmt.Errorf("make a repository in %s: %w", r.dir, err)
		}
	}
	settings := [][2]string{{"remote.origin.url", r.publicRemote()}, {"remote.origin.fetch", r.allBranches()}}
	switch {
	case err == nil: // it was made before
	case r.heads == headsOfStore:
		settings = append(settings, [2]string{"gc.pruneExpire", "never"}) // for people who tidy up by hand
	case r.opts.Blobless:
		settings = append(settings, [2]string{"remote.origin.promisor", "true"}, [2]string{"remote.origin.partialCloneFilter", "blob:none"}, [2]string{"extensions.partialClone", "origin"})
	}
	for i, kv := range settings {
		have, err := r.output(ctx, r.dir, "config", "--local", "--get-all", kv[0])
		if err == nil && have == kv[1] {
			continue
		}
		if err == nil && i == 0 && repository(have) != repository(kv[1]) {
			return &MovedRemoteError{Dir: r.dir, Have: mask.WithoutCredentials(have), Want: kv[1]}
		}
		if err := r.run(ctx, r.dir, nil, out, "config", "--local", "--replace-all", kv[0], kv[1]); err != nil {
			return fmt.Errorf("point origin at the remote: %w", err)
		}
	}
	return nil
}

func sameDir(a, b string) bool {
	its, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(its, other)
}

// CheckDir says what would keep EnsureClone from using a directory, as far as
// that can be told by looking: it may be missing, empty or a repository. Whose it
// is does not matter here.
func CheckDir(dir string) error {
	// In this order: others may make the directory meanwhile.
	link, linkErr := os.Lstat(dir)
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &NotRepositoryError{Dir: dir, Detail: "is not a directory"}
	case errors.Is(err, fs.ErrNotExist) && linkErr == nil && link.Mode()&fs.ModeSymlink != 0:
		return &NotRepositoryError{Dir: dir, Detail: "is a link to what is not there"}
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the working tree: %w", err)
	}
	switch info, err := os.Lstat(filepath.Join(dir, ".git")); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &NotRepositoryError{Dir: dir, Detail: "has a .git that is not a directory"}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look at the working tree: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look at the working tree: %w", err)
	}
	// A .git that was not there before: somebody else has just made it, or see replace.
	if len(entries) > 0 && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ".git" || e.Name() == freshName }) {
		return &NotRepositoryError{Dir: dir, Detail: "is not empty and is not a git repository"}
	}
	return nil
}

func (r *Repo) prepareDir(gitDir string) error {
	if err := r.replace(); err != nil {
		return err
	}
	if err := CheckDir(r.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return fmt.Errorf("make the working tree: %w", err)
	}
	if err := os.Mkdir(gitDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the working tree: %w", err)
	}
	return nil
}

// FetchCommit makes commit available: it fetches the branch into
// refs/remotes/origin/ (by way of the store, if there is one), and, where that does not bring the commit (the branch was
// force-pushed or deleted since), the commit by its hash. If the commit is
// there already, a remote that cannot be reached is only written to out.
func (r *Repo) FetchCommit(ctx context.Context, branch, commit string, out io.Writer) error {
	defer r.opts.As.Enter()()
	if err := errors.Join(checkBranch(branch), checkHash(commit)); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	return r.patiently(ctx, passes, func() error { return r.fetchOnce(ctx, branch, commit, out) })
}

func (r *Repo) fetchOnce(ctx context.Context, branch, commit string, out io.Writer) error {
	from, err := r.supplied(ctx, branch, commit, out)
	if err != nil {
		return err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if r.supplies(ctx, branch, commit) {
		return nil
	}
	err = from.fetchCommit(ctx, branch, commit, out)
	if err == nil {
		err = r.fetchFiles(ctx, commit, out)
	}
	if isDamage(err) && ctx.Err() == nil {
		say(out, "%v", err)
		err = r.renew(ctx, commit, out)
	}
	return err
}

func (r *Repo) fetchCommit(ctx context.Context, branch, commit string, out io.Writer) error {
	branchErr := r.fetchBranch(ctx, out, branch)
	if ctx.Err() != nil {
		return fmt.Errorf("fetch branch %q: %w", branch, cause(ctx, branchErr))
	}
	if have, err := r.Has(ctx, commit); err != nil || have {
		return err
	}
	if branchErr != nil && !isMissing(branchErr) {
		return fmt.Errorf("fetch branch %q: %w", branch, branchErr)
	}
	if err := r.fetch(ctx, out, commit); err != nil {
		return fmt.Errorf("fetch commit %s, which branch %q does not contain (yet, or any more): %w", commit, branch, cause(ctx, err))
	}
	have, err := r.Has(ctx, commit)
	if err == nil && !have {
		err = fmt.Errorf("fetch commit %s: the remote has an object of that name, which is not a commit", commit)
	}
	return err
}

// allBranches is where the remote's branches stand here.
func (r *Repo) allBranches() string { return "+refs/heads/*:" + r.heads + "*" }

// fetchBranch fetches a branch to where it stands here. If the remote has no such
// branch, or one of another name is in its place (a/b where there was a), the refs
// of branches that are gone at the remote are removed.
func (r *Repo) fetchBranch(ctx context.Context, out io.Writer, branch string, more ...string) error {
	fetch := func() error {
		return r.fetch(ctx, out, "+refs/heads/"+branch+":"+r.heads+branch, more...)
	}
	err := fetch()
	if missing := isMissing(err); missing || isInTheWay(err) {
		pruning := *r.contact(ctx, r.dir)
		pruning.config = append(slices.Clip(pruning.config), [2]string{"remote." + r.name + ".fetch", r.allBranches()})
		// A failure to prune is in out; what keeps the branch from being fetched is err.
		if pruned := pruning.run(ctx, r.dir, nil, out, "remote", "prune", "--end-of-options", r.name); pruned == nil && !missing {
			return fetch()
		}
	}
	return err
}

func (r *Repo) fetch(ctx context.Context, out io.Writer, refspec string, more ...string) error {
	args := append([]string{"fetch", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"}, more...)
	if r.heads == headsOfStore { // a branch may have the name of its HEAD
		args = append(args, "--update-head-ok")
	}
	if r.isPartial() {
		args = append(args, "--filter=blob:none")
	}
	args = append(args, "--end-of-options", r.name, refspec)
	if r.opts.Tags { // with a refspec of their own, so that one that was moved moves here, too
		args = append(args, "+refs/tags/*:refs/tags/*")
	}
	err := r.contact(ctx, r.dir).run(ctx, r.dir, nil, out, args...)
	if err != nil {
		r.sweep() // at once: it may be what fills the disk
	}
	return err
}

// cause prefers err, and is never nil when the context has ended.
func cause(ctx context.Context, err error) error {
	if err == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
