package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minMajor is the oldest Postgres that the event log's schema works on.
const minMajor = 15

// programs is one installation of Postgres.
type programs struct {
	dir   string // holds initdb and postgres
	major int
}

var programNames = []string{"initdb", "postgres"}

// usualDirs are the places where packages put the programs without putting
// them on PATH. A star stands for the major version.
var usualDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // PGDG on Fedora and its kin
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/local/pgsql/bin",      // built from source
	"/opt/homebrew/opt/*/bin",   // Homebrew
	"/home/linuxbrew/.linuxbrew/opt/*/bin",
	"/usr/local/opt/postgresql*/bin",
}

// NoProgramsError says that the machine has no usable Postgres programs and
// that they could not be fetched either.
type NoProgramsError struct {
	// Major is the version that is needed, or 0 for any from 15 on.
	Major    int
	Searched []string
	// Fetch is why they could not be fetched.
	Fetch error
}

// Error says what to do.
func (e *NoProgramsError) Error() string {
	what, install := "Postgres 15 or newer", "postgresql"
	if e.Major != 0 {
		what, install = fmt.Sprintf("Postgres %d, which made this cluster,", e.Major), fmt.Sprintf("postgresql-%d", e.Major)
	}
	return fmt.Sprintf("the programs initdb and postgres of %s are neither on PATH nor in %s, and fetching them failed (%v): "+
		"install them (for example: apt-get install %s), or set DATABASE_URL to a Postgres server",
		what, strings.Join(e.Searched, ", "), e.Fetch, install)
}

// Unwrap returns why the programs could not be fetched.
func (e *NoProgramsError) Unwrap() error { return e.Fetch }

// findPrograms returns the installation to use: of the given major version if
// it is not 0, else the newest, those on PATH first.
func (c *Cluster) findPrograms(ctx context.Context, major int) (programs, error) {
	if c.cfg.BinDir != "" {
		p, err := c.inspect(ctx, c.cfg.BinDir)
		if err != nil {
			return programs{}, err
		}
		return p, p.suits(major)
	}
	if p, err := exec.LookPath("initdb"); err == nil {
		if resolved, err := filepath.EvalSymlinks(p); err == nil {
			if found, err := c.inspect(ctx, filepath.Dir(resolved)); err == nil && found.suits(major) == nil {
				return found, nil
			}
		}
	}
	search := c.cfg.searchDirs
	if search == nil {
		search = usualDirs
	}
	if best, err := c.newest(ctx, major, search...); err != nil || best.dir != "" {
		return best, err
	}
	p, err := c.fetchPrograms(ctx, major)
	if err != nil {
		return programs{}, &NoProgramsError{Major: major, Searched: slices.Clone(search), Fetch: err}
	}
	return p, nil
}

// newest returns the newest installation that suits among the directories that
// match the patterns, or none.
func (c *Cluster) newest(ctx context.Context, major int, patterns ...string) (best programs, err error) {
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return programs{}, fmt.Errorf("search %s: %w", pattern, err)
		}
		for _, dir := range dirs {
			if p, err := c.inspect(ctx, dir); err == nil && p.suits(major) == nil && p.major > best.major {
				best = p
			}
		}
	}
	return best, nil
}

func (p programs) suits(major int) error {
	if p.major < minMajor {
		return fmt.Errorf("%s holds Postgres %d; %d or newer is needed", p.dir, p.major, minMajor)
	}
	if major != 0 && p.major != major {
		return fmt.Errorf("%s holds Postgres %d, but the cluster was made by Postgres %d: "+
			"install that one (for example: apt-get install postgresql-%[3]d), or move the cluster with pg_upgrade", p.dir, p.major, major)
	}
	return nil
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect looks for a whole installation in dir, and has it say its version: to
// the cluster's owner, as nothing of it is ever run as root.
func (c *Cluster) inspect(ctx context.Context, dir string) (programs, error) {
	for _, name := range programNames {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return programs{}, fmt.Errorf("look for the Postgres programs: %w", err)
		}
		if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
			return programs{}, fmt.Errorf("look for the Postgres programs: %s is not a program", filepath.Join(dir, name))
		}
	}
	cmd, out := c.command(ctx, filepath.Join(dir, "postgres"), "--version")
	if err := cmd.Run(); err != nil {
		return programs{}, fmt.Errorf("ask %s for its version: %w", cmd.Path, c.explainRun(programs{dir: dir}, err, out.String()))
	}
	m := versionPattern.FindSubmatch(out.Bytes())
	if m == nil {
		return programs{}, fmt.Errorf("ask %s for its version: unknown answer %.100q", cmd.Path, out)
	}
	major, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return programs{}, fmt.Errorf("read the version of %s: %w", dir, err)
	}
	return programs{dir: dir, major: major}, nil
}

// clusterMajor reads which Postgres made the cluster; 0 means that there is none.
func (c *Cluster) clusterMajor() (int, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "data", "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read which Postgres made the cluster: PG_VERSION says %.20q", b)
	}
	return major, nil
}
