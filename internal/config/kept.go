package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kept is all that a configuration was read from, as a file holds it.
type kept struct {
	At      time.Time         `json:"at"`
	Sources []source          `json:"sources"`
	Files   map[string][]byte `json:"files"` // that the sources name: secrets, variables
}

// Keep is a file with all that the configuration was read from, secrets included, as
// the last good one of a program that is called like this: see LoadKept. Only the user
// of the process may read it.
func (c *Config) Keep(program string, args []string, env func(string) string, now time.Time) (path string, content []byte, err error) {
	content, err = json.Marshal(kept{At: now.UTC(), Sources: c.sources, Files: c.files})
	if err != nil {
		return "", nil, fmt.Errorf("encode the configuration: %w", err)
	}
	dir := c.StateDir
	if unit := unitStateDir(env); unit != "" {
		dir = unit // is found whatever a later configuration says
	}
	return keptPath(dir, program, args), content, nil
}

// LoadKept loads the last good configuration of a program that is called with the
// same arguments, and says of when it is. paths are those of the configuration that is
// not good; it may still say where the state is.
func LoadKept(program string, args, paths []string, env func(string) string) (*Config, time.Time, error) {
	for _, dir := range stateDirs(paths, env) {
		path := keptPath(dir, program, args)
		raw, err := readOwn(path)
		if os.IsNotExist(err) {
			continue
		}
		var k kept
		if err == nil {
			err = json.Unmarshal(raw, &k)
		}
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("read the last good configuration from %s: %w", path, err)
		}
		on := thisHost()
		on.read = func(file string, limit int64) ([]byte, error) {
			if data, ok := k.Files[file]; ok {
				return data, nil
			}
			return readRegularFile(file, limit)
		}
		c, problems := build(k.Sources, nil, env, on)
		if len(problems) > 0 {
			return nil, k.At, &Errors{List: sortErrors(problems, fileNames(k.Sources))}
		}
		return c, k.At, nil
	}
	return nil, time.Time{}, fmt.Errorf("there is no last good configuration: %w", os.ErrNotExist)
}

// maxKept bounds the file, in bytes.
const maxKept = 64 << 20

// readOwn reads a file that nobody else can have written: what it holds is run.
func readOwn(path string) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, errors.New("it must belong to the user that runs durhack-deployer, with mode 0600")
	}
	return readRegularFile(path, maxKept)
}

var fileNamePart = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// keptPath is the file of a program and its arguments, two of which may share a
// directory.
func keptPath(dir, program string, args []string) string {
	name := program
	for _, arg := range args {
		if abs, err := filepath.Abs(arg); err == nil {
			arg = abs
		}
		name += fileNamePart.ReplaceAllString(arg, "-")
	}
	return filepath.Join(dir, "last-good-"+name[:min(len(name), 200)]+".json")
}

// unitStateDir is the directory that systemd gives; "" where there is none.
func unitStateDir(env func(string) string) string {
	// systemd separates several directories by colons; the first is the main one.
	dir, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":")
	if !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Clean(dir)
}

var stateDirLine = regexp.MustCompile(`(?m)^\s*state_dir\s*=\s*["'](/[^"'\n]*)["']`)

// stateDirs are the places where the state may be, of a configuration that cannot
// be read as a whole: systemd's, what looks like a state_dir in it, and the default.
func stateDirs(paths []string, env func(string) string) []string {
	var dirs []string
	if unit := unitStateDir(env); unit != "" {
		dirs = append(dirs, unit)
	}
	sources, _, _ := readSources(paths, env)
	for _, s := range sources {
		for _, m := range stateDirLine.FindAllSubmatch(s.Data, -1) {
			dirs = append(dirs, filepath.Clean(string(m[1])))
		}
	}
	var c Config
	(&decoder{env: env, on: thisHost(), values: map[string]Value{}}).stateDir(&c)
	return append(dirs, c.StateDir)
}
