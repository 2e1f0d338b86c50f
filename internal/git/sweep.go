package git

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// unfinished are the names, in a git directory, of what is not finished yet:
// packs that are being received, directories for the objects of a fetch, and the
// same of LFS; and what may not stay.
var unfinished = []string{
	"objects/tmp_*", "objects/[0-9a-f][0-9a-f]/tmp_obj_*", "objects/pack/tmp_*", "objects/pack/.tmp-*", "objects/pack/pack-*.keep", "lfs/tmp/*", "lfs/incomplete/*",
	// LFS writes its errors there with its whole environment, which holds the
	// remote's credentials. The run log has them without.
	"lfs/logs/*",
}

// sweep removes what fetches that failed or were killed have left, also those of
// submodules: git itself keeps it for weeks, and a disk that is full stays full.
// Files that a process has open are left to it: somebody's git by hand. A file that
// cannot be removed is no reason to fail.
func (r *Repo) sweep() {
	busy, release := r.tidying()
	defer release()
	if !busy {
		r.removeLeft()
	}
}

func (r *Repo) removeLeft() {
	gitDir := os.DirFS(filepath.Join(r.dir, ".git"))
	var left []string
	for _, store := range append(moduleDirs(gitDir), ".") {
		for _, pattern := range unfinished {
			found, _ := fs.Glob(gitDir, path.Join(store, pattern))
			for _, name := range found {
				if strings.HasSuffix(name, ".keep") && !keptByFetch(gitDir, name) {
					continue
				}
				left = append(left, filepath.Join(r.dir, ".git", name))
			}
		}
	}
	if len(left) == 0 {
		return
	}
	open := process.FindOpenFiles(0)
	for _, name := range left {
		inUse := false
		_ = filepath.WalkDir(name, func(at string, _ fs.DirEntry, _ error) error {
			info, err := os.Lstat(at)
			inUse = inUse || err == nil && open.By(info) != ""
			return nil
		})
		if !inUse {
			_ = os.RemoveAll(name)
		}
	}
}

// moduleDirs are the git directories of submodules, relative to that of the
// repository. They may lie in each other.
func moduleDirs(gitDir fs.FS) []string {
	var dirs []string
	_ = fs.WalkDir(gitDir, "modules", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return nil
		case d.Name() == "objects":
			dirs = append(dirs, path.Dir(name))
			return fs.SkipDir
		case d.Name() == "refs" || d.Name() == "logs" || d.Name() == "lfs":
			return fs.SkipDir
		}
		return nil
	})
	return dirs
}

// keptByFetch says whether a fetch keeps a pack until its refs are there. People
// keep packs in the same way.
func keptByFetch(gitDir fs.FS, name string) bool {
	b, err := fs.ReadFile(gitDir, name)
	return err == nil && strings.HasPrefix(string(b), "fetch-pack ")
}
