package git

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// Objects are packed together where there are more packs than manyPacks, or more
// loose objects than manyLoose in one of their 256 folders, which chance fills evenly.
const (
	manyPacks = 10
	manyLoose = 27
)

// tidyName is a lock in .git: what has not got its name yet is no leftover while it is held.
const tidyName = "durhack-deployer.tidy"

// Tidied is what Tidy has done in a git directory.
type Tidied struct {
	Dir           string
	Before, After int // packs
}

// Tidy packs objects together where fetches have left many packs: git's own gc, which
// would do it in the middle of a fetch, is off. It drops no object, so that whoever
// borrows from here loses none; it keeps no fetch and no checkout waiting; and it leaves nothing behind when ctx ends.
func (r *Repo) Tidy(ctx context.Context) (done []Tidied, err error) {
	defer r.opts.As.Enter()()
	if !r.exists() {
		return nil, nil
	}
	if store := r.lender(); store != nil {
		if done, err = store.Tidy(ctx); err != nil {
			return done, err
		}
	}
	gitDir := filepath.Join(r.dir, ".git")
	for _, module := range append(moduleDirs(os.DirFS(gitDir)), ".") {
		dir := filepath.Join(gitDir, module)
		if packs, many := untidy(dir); many {
			after, err := r.tidy(ctx, dir)
			if err != nil {
				return done, err
			}
			done = append(done, Tidied{Dir: dir, Before: packs, After: after})
		}
	}
	return done, nil
}

func (r *Repo) tidy(ctx context.Context, dir string) (packs int, err error) {
	unlock, err := r.flock(ctx, tidyName)
	if err != nil {
		return 0, err
	}
	defer unlock()
	packs, many := untidy(dir)
	if !many { // somebody else has just done it
		return packs, nil
	}
	slow := *r
	slow.config = append(slow.config, [2]string{"pack.threads", "1"}) // others deploy meanwhile
	// Small packs together, so that each object is copied a few times and not every
	// time; whether something refers to it does not matter.
	how := []string{"--geometric=2"}
	if r.isPartial() { // git loses track of what such a clone lacks
		how = []string{"-a", "-k"}
	}
	err = slow.run(ctx, dir, nil, nil, append([]string{"repack", "-d", "-l", "-q"}, how...)...)
	if err != nil {
		r.removeLeft()
		return 0, fmt.Errorf("pack the objects in %s: %w", dir, err)
	}
	packs, _ = untidy(dir)
	return packs, nil
}

// untidy counts the packs of a git directory, and says whether there is something to do.
func untidy(dir string) (packs int, many bool) {
	found, _ := filepath.Glob(filepath.Join(dir, "objects/pack/pack-*.pack"))
	loose, _ := fs.ReadDir(os.DirFS(dir), "objects/17")
	return len(found), len(found) > manyPacks || len(loose) > manyLoose
}

// tidying says whether somebody is tidying up here. It keeps others from beginning until release is called.
func (r *Repo) tidying() (busy bool, release func()) {
	f, err := r.openLock(tidyName)
	if err != nil {
		return false, func() {}
	}
	locked, err := flock.Try(f, flock.Exclusive)
	return err == nil && !locked, func() { _ = flock.Release(f) }
}
