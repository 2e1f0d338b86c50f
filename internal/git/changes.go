package git

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Change is a file that differs between two commits.
type Change struct {
	Path string
	// Added and Removed count lines; both are -1 where nobody counted: a binary file, or
	// one that is not here.
	Added, Removed int
}

// Changes are the files that differ between two commits.
type Changes struct {
	// Files are the first ones, by path; there are Count.
	Files []Change
	Count int
}

// ErrNoCommit says that a commit is not in the clone, or that there is no clone.
var ErrNoCommit = errors.New("the commit is not here")

// maxChanges bounds, in bytes, what is kept of the list of files.
const maxChanges = 256 << 10

// Changes lists the files that differ between two commits, of which it returns at most
// most. Where commits or clone are not here, that is ErrNoCommit: nothing is fetched.
func (r *Repo) Changes(ctx context.Context, from, to string, most int) (Changes, error) {
	defer r.opts.As.Enter()()
	if err := errors.Join(checkHash(from), checkHash(to)); err != nil {
		return Changes{}, fmt.Errorf("compare commits: %w", err)
	}
	if !r.exists() {
		return Changes{}, ErrNoCommit
	}
	if r.isPartial() { // of which git would fetch what is missing
		here, err := r.Authored(ctx, []string{from, to})
		if err != nil {
			return Changes{}, err
		}
		for _, commit := range []string{from, to} {
			if _, ok := here[commit]; !ok {
				return Changes{}, ErrNoCommit
			}
		}
	}
	here := *r
	here.vars = []string{"GIT_NO_LAZY_FETCH=1"}
	form := "--numstat"
	if r.opts.Blobless {
		form = "--name-only" // to count lines, the files of both would be fetched
	}
	var list beginning
	err := here.run(ctx, r.dir, &list, nil, "diff-tree", "-r", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", form, "--end-of-options", from, to)
	if exitCode(err) == 128 {
		for _, commit := range []string{from, to} {
			if have, hasErr := r.Has(ctx, commit); hasErr == nil && !have {
				return Changes{}, ErrNoCommit
			}
		}
	}
	if err != nil {
		return Changes{}, fmt.Errorf("compare commits: %w", err)
	}
	changes := Changes{Count: list.entries}
	for entry := range strings.SplitSeq(list.text.String(), "\x00") {
		change, ok := parseChange(entry, form)
		if !ok || len(changes.Files) == most {
			break
		}
		changes.Files = append(changes.Files, change)
	}
	return changes, nil
}

func parseChange(entry, form string) (Change, bool) {
	if form == "--name-only" {
		return Change{entry, -1, -1}, entry != ""
	}
	field := strings.SplitN(entry, "\t", 3)
	if len(field) != 3 {
		return Change{}, false
	}
	added, addedErr := strconv.Atoi(field[0]) // "-" of a binary file
	removed, removedErr := strconv.Atoi(field[1])
	if addedErr != nil || removedErr != nil {
		added, removed = -1, -1
	}
	return Change{field[2], added, removed}, true
}

// beginning keeps the beginning of a list whose entries end with a NUL, whole entries where
// possible, and counts them all.
type beginning struct {
	text    strings.Builder
	entries int
}

func (b *beginning) Write(p []byte) (int, error) {
	b.entries += strings.Count(string(p), "\x00")
	b.text.Write(p[:min(len(p), max(0, maxChanges-b.text.Len()))])
	return len(p), nil
}
