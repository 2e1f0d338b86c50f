package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A store keeps what was fetched from one remote, for all deployments of it: a
// clone below Options.Store in which nothing is ever checked out and of which nothing is ever dropped.
// A working tree borrows its objects (objects/info/alternates), and has the rest of
// a repository for itself: its deletion harms no other.

// The branches of the remote stand in different places: in a store as a remote has
// them, so that one can fetch from it as from the remote.
const (
	headsOfTree  = "refs/remotes/origin/"
	headsOfStore = "refs/heads/"
)

var notReadable = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// storeName is for people, as far as it ends in the remote's own name, and different for
// each remote; it holds no credentials.
func storeName(publicRemote string) string {
	parts := strings.FieldsFunc(strings.TrimSuffix(publicRemote, ".git"), func(r rune) bool { return r == '/' || r == ':' })
	name := notReadable.ReplaceAllString(strings.Join(parts[max(0, len(parts)-2):], "-"), "-")
	sum := sha256.Sum256([]byte(publicRemote))
	return strings.TrimLeft(name[max(0, len(name)-60):]+"-"+hex.EncodeToString(sum[:8]), ".-")
}

// store is the store of the remote; nil where there are to be none.
func (r *Repo) store() *Repo {
	if r.opts.Store == "" {
		return nil
	}
	store := *r
	store.dir, store.heads = filepath.Join(r.opts.Store, storeName(r.publicRemote())), headsOfStore
	store.opts.Store, store.opts.Submodules = "", false
	return &store
}

// lender is the store that the working tree borrows from; nil where it does not.
func (r *Repo) lender() *Repo {
	store := r.store()
	if store == nil {
		return nil
	}
	b, err := readFile(filepath.Join(r.dir, ".git", "objects", "info", "alternates"))
	if err != nil || !slices.Contains(strings.Split(string(b), "\n"), store.objects()) {
		return nil
	}
	return store
}

func (r *Repo) objects() string { return filepath.Join(r.dir, ".git", "objects") }

// borrow makes a repository that is still to come a borrower of the store. Where that cannot
// be, it will have all objects itself.
func (r *Repo) borrow(ctx context.Context, commit string, out io.Writer) error {
	store := r.store()
	if store == nil {
		return nil
	}
	err := os.MkdirAll(r.opts.Store, 0o750)
	if err == nil {
		err = store.EnsureClone(ctx, commit, out)
	}
	info := filepath.Join(r.objects(), "info")
	if err == nil {
		err = os.MkdirAll(info, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(info, "alternates"), []byte(store.objects()+"\n"), 0o644)
	}
	if err != nil && ctx.Err() == nil {
		say(out, "%s shares no objects with other deployments: %v", r.dir, err)
		err = nil
	}
	return err
}

// supplied is r for a fetch of the commit: where it borrows, from the store, once that has it.
func (r *Repo) supplied(ctx context.Context, branch, commit string, out io.Writer) (*Repo, error) {
	store := r.lender()
	if store == nil {
		return r, nil
	}
	if err := store.EnsureClone(ctx, commit, out); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		say(out, "fetching without the objects of other deployments: %v", err)
		return r, nil
	}
	if err := store.fetchOnce(ctx, branch, commit, out); err != nil {
		return nil, err
	}
	return r.fromStore(), nil
}

// fromStore is r with the store that it borrows from as its remote, if it borrows.
func (r *Repo) fromStore() *Repo {
	store := r.lender()
	if store == nil {
		return r
	}
	from := *r
	from.remote = store.dir
	from.config = append(slices.Clip(from.config), [2]string{"protocol.file.allow", "always"})
	return &from
}

// supplies says that the store need not fetch: another deployment was told of the same push.
func (r *Repo) supplies(ctx context.Context, branch, commit string) bool {
	if r.heads != headsOfStore || r.opts.Tags { // tags may have moved
		return false
	}
	found, err := r.output(ctx, r.dir, "for-each-ref", "--contains="+commit, "--", r.heads+branch)
	return err == nil && found != ""
}

// repair makes the store whole again, if a commit of it is not.
func (r *Repo) repair(ctx context.Context, commit string, out io.Writer) error {
	if err := r.EnsureClone(ctx, commit, out); err != nil {
		return err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !r.damaged(ctx, commit) {
		return nil
	}
	return r.renew(ctx, commit, out)
}

// isPartial says that the clone lacks files that its commits have, until they are needed.
func (r *Repo) isPartial() bool {
	b, _ := readFile(filepath.Join(r.dir, ".git", "config"))
	return bytes.Contains(bytes.ToLower(b), []byte("partialclone ="))
}

// fetchFiles gets those files of a commit that a partial clone does not have yet, so that no
// checkout has to wait for the remote.
func (r *Repo) fetchFiles(ctx context.Context, commit string, out io.Writer) error {
	if !r.isPartial() {
		return nil
	}
	text, err := r.list(ctx, "rev-list", "--objects", "--missing=print", "--no-walk", "--end-of-options", commit)
	if err != nil {
		return fmt.Errorf("look for the files that are still to be fetched: %w", err)
	}
	var missing bytes.Buffer
	for line := range strings.Lines(text) {
		if hash, ok := strings.CutPrefix(line, "?"); ok {
			missing.WriteString(hash)
		}
	}
	if missing.Len() == 0 {
		return nil
	}
	quick := *r.contact(ctx, r.dir)
	quick.config = append(slices.Clip(quick.config), [2]string{"fetch.negotiationAlgorithm", "noop"})
	if err := quick.feed(ctx, missing.Bytes(), out, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--filter=blob:none", "--stdin", r.name); err != nil {
		return fmt.Errorf("fetch the files of commit %s: %w", commit, err)
	}
	return nil
}
