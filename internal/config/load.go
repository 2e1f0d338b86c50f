package config

import (
	"maps"
	"os"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"
)

// host is what the defaults depend on besides the environment.
type host struct {
	name     func() (string, error)
	root     bool
	writable func(dir string) bool
	read     func(file string, limit int64) ([]byte, error)
}

func thisHost() host {
	return host{
		name:     os.Hostname,
		root:     os.Geteuid() == 0,
		writable: func(dir string) bool { return unix.Access(dir, unix.W_OK|unix.X_OK) == nil },
		read:     readRegularFile,
	}
}

// DefaultPaths is what Load is given where no path was named: the directory
// /etc/durhack-deployer if it has configuration files, else ./config if that
// has, else nothing.
func DefaultPaths() []string { return defaultPaths(systemDir, "config") }

const systemDir = "/etc/durhack-deployer"

func defaultPaths(dirs ...string) []string {
	for _, dir := range dirs {
		files, err := directoryFiles(dir)
		if os.IsNotExist(err) || (err == nil && len(files) == 0) {
			continue
		}
		// A directory that cannot be read is used, too: Load says why it
		// fails, instead of another configuration taking its place unnoticed.
		return []string{dir}
	}
	return nil
}

// Load reads and merges the files. Each path is a file or a directory, of which
// every *.toml is taken in the order of their names. env looks up environment
// variables: DATABASE_URL, STATE_DIRECTORY and CREDENTIALS_DIRECTORY (which
// systemd sets), XDG_STATE_HOME, HOME and PYTHON_ENV (see directoryFiles).
//
// The error is an *Errors with everything that is wrong. A webhook secret and
// handlers that this version can run are not required here: see RequireSecret
// and Problems.
func Load(paths []string, env func(string) string) (*Config, error) {
	sources, warnings, problems := readSources(paths, env)
	on, files := thisHost(), make(map[string][]byte)
	on.read = func(file string, limit int64) ([]byte, error) {
		data, err := readRegularFile(file, limit)
		if err == nil {
			files[file] = data
		}
		return data, err
	}
	config, problems := build(sources, problems, env, on)
	if len(problems) > 0 {
		return nil, &Errors{List: sortErrors(problems, fileNames(sources))}
	}
	config.Warnings = append(warnings, config.Warnings...)
	config.sources, config.files = sources, files
	return config, nil
}

// build checks each source against the schema, merges them and reads the
// result. problems are those of sources that could not even be read. The Config
// is nil where there are errors.
func build(sources []source, problems []*Error, env func(string) string, on host) (*Config, []*Error) {
	d := &decoder{env: env, on: on, root: schema(), values: map[string]Value{}, files: map[string]envFiles{}}
	all := tree{map[string]any{}, map[string]position{}}
	for _, src := range sources {
		one, err := parseTOML(src.File, src.Data)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		d.at = one.at
		d.strict(one.root, d.root, "")
		all.merge(one)
	}
	if len(problems) > 0 {
		// What the rest says together would mislead: a setting that seems to
		// be missing may be in the file that could not be parsed.
		return nil, append(problems, d.errors...)
	}
	d.at = all.at
	c := &Config{
		Listen: HostPort{"localhost", 3400}, Admin: Admin{HostPort: HostPort{"127.0.0.1", 3401}},
		Deployments: map[string]*Deployment{}, Files: fileNames(sources),
	}
	d.table(all.root, d.root, "", reflect.ValueOf(c).Elem())
	d.settle(c)
	if len(d.errors) > 0 {
		return nil, d.errors
	}
	return c, nil
}

func fileNames(sources []source) []string {
	names := make([]string, len(sources))
	for i, src := range sources {
		names[i] = src.File
	}
	return names
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
