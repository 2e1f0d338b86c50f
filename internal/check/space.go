package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

// Free space below which the daemon will soon fail, or should be looked after.
const (
	spaceNeeded = 100 << 20
	spaceWanted = 1 << 30
	filesNeeded = 1000
)

// space looks at the file system of each directory that is written to: the state's
// own, which may be several, and the paths of enabled deployments.
func (d *doctor) space(context.Context) {
	type place struct{ name, dir string }
	places := []place{{"state_dir", d.cfg.StateDir}}
	for _, part := range []string{"queues", "runs", "repos", "postgres"} {
		places = append(places, place{part, filepath.Join(d.cfg.StateDir, part)})
	}
	for _, slug := range d.cfg.Slugs() {
		if dep := d.cfg.Deployments[slug]; dep.Enabled {
			places = append(places, place{slug, dep.Path})
		}
	}
	var seen []uint64 // the file systems, as they come
	on := map[uint64][]string{}
	dirs := map[uint64]string{}
	for _, p := range places {
		dir, _, err := nearest(p.dir)
		var stat unix.Stat_t
		if err == nil {
			err = unix.Stat(dir, &stat)
		}
		if err != nil {
			d.say(Warn, "run this as the user that the daemon runs as", "%s: cannot read the free space of %s: %v", p.name, p.dir, err)
			continue
		}
		if !slices.Contains(seen, stat.Dev) {
			seen, dirs[stat.Dev] = append(seen, stat.Dev), dir
		} else if filepath.Dir(p.dir) == d.cfg.StateDir {
			continue // state_dir has been named
		}
		on[stat.Dev] = append(on[stat.Dev], p.name)
	}
	for _, dev := range seen {
		var free unix.Statfs_t
		if err := unix.Statfs(dirs[dev], &free); err != nil {
			d.say(Warn, "", "cannot read the free space of %s: %v", dirs[dev], err)
			continue
		}
		level, text := judge(free)
		advice := ""
		if level != OK {
			advice = "make room, or deploys will fail and pushes be refused: docs/operations.md, Disk use"
		}
		d.say(level, advice, "%s: %s, for %s", dirs[dev], text, strings.Join(on[dev], ", "))
	}
	d.used()
}

// walWanted is more than Postgres keeps of its write-ahead log by itself.
const walWanted = 2 << 30

// used says what the parts of state_dir take.
func (d *doctor) used() {
	var parts []string
	for _, part := range []string{"queues", "runs", "repos", "postgres"} {
		if bytes := diskUse(filepath.Join(d.cfg.StateDir, part)); bytes > 0 {
			parts = append(parts, part+" "+size(bytes))
		}
	}
	level, advice := OK, ""
	if wal := diskUse(filepath.Join(daemon.PrivateCluster(d.cfg), "data", "pg_wal")); wal > 0 {
		parts[len(parts)-1] += " (of it pg_wal " + size(wal) + ")"
		if wal > walWanted {
			level, advice = Warn, "see postgres/postgres.log: a replication slot that nobody reads, or an archive_command that fails, keeps it"
		}
	}
	if len(parts) > 0 {
		d.say(level, advice, "%s holds %s", d.cfg.StateDir, strings.Join(parts, ", "))
	}
}

// diskUse is what the files below a directory take, as far as this user may look.
func diskUse(dir string) (bytes uint64) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
		var stat unix.Stat_t
		if unix.Lstat(path, &stat) == nil {
			bytes += uint64(stat.Blocks) * 512
		}
		return nil
	})
	return bytes
}

// judge says what is free of a file system, and whether that will do.
func judge(s unix.Statfs_t) (Level, string) {
	free := s.Bavail * uint64(s.Bsize)
	text := size(free) + " free"
	switch limited := s.Files > 0; { // some make inodes as they need them
	case limited && s.Ffree < filesNeeded:
		return Fail, fmt.Sprintf("%s, but room for only %d more files (inodes)", text, s.Ffree)
	case free < spaceNeeded:
		return Fail, text
	case free < spaceWanted:
		return Warn, text
	}
	return OK, text
}

func size(bytes uint64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}

// nearest is a directory, or where it is missing, the nearest above it: there it
// will be made.
func nearest(dir string) (string, fs.FileInfo, error) {
	info, err := os.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	return dir, info, err
}
