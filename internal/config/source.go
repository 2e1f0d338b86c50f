package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

const (
	maxFile   = 1 << 20  // bytes of one configuration file
	maxSecret = 64 << 10 // bytes of one secret file
)

// source is one file's content.
type source struct {
	File string `json:"file"`
	Data []byte `json:"data"`
}

// readSources reads the files behind the paths, as far as it can.
func readSources(paths []string, env func(string) string) ([]source, []Warning, []*Error) {
	if len(paths) == 0 {
		return nil, nil, []*Error{{
			Message:    "there is no configuration: no --config was given, and neither " + systemDir + " nor ./config has a *.toml file",
			Suggestion: "write " + systemDir + "/deployer.toml, or name a file or a directory with --config",
		}}
	}
	var sources []source
	var warnings []Warning
	var problems []*Error
	for _, path := range paths {
		files, left, err := expand(path, env("PYTHON_ENV"))
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if len(left) > 0 {
			warnings = append(warnings, Warning{File: path, Message: fmt.Sprintf(
				"PYTHON_ENV is set, so that of this directory the files are read that the Python deployer would read; not read: %s", strings.Join(left, ", "))})
		}
		for _, file := range files {
			data, err := readConfigFile(file)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			sources = append(sources, source{file, data})
		}
	}
	return sources, warnings, problems
}

// expand returns the files behind one path, and the names of those that
// PYTHON_ENV leaves out.
func expand(path, pythonEnv string) (files, left []string, failed *Error) {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return []string{path}, nil, nil
	}
	names, err := directoryFiles(path)
	if err != nil {
		return nil, nil, fileError(path, err)
	}
	if len(names) == 0 {
		return nil, nil, &Error{File: path, Message: "this directory has no *.toml file", Suggestion: "name a file, or a directory with one"}
	}
	names, left = pythonLayout(names, pythonEnv)
	for _, name := range names {
		files = append(files, filepath.Join(path, name))
	}
	return files, left, nil
}

// HelperFile is the name of the file of the helper's rules, which stands beside ours.
const HelperFile = "helper.toml"

// directoryFiles lists the names of a directory's *.toml files, sorted. Hidden
// ones are left out: editors keep their locks and backups there.
func directoryFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".") && name != HelperFile && !entry.IsDir() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// pythonLayout chooses among the files of a directory as the Python deployer
// did, where its PYTHON_ENV is set and the directory has its default.toml: that
// directory holds the files of several servers side by side, and merging them
// all would mix them.
func pythonLayout(names []string, pythonEnv string) (chosen, left []string) {
	if pythonEnv == "" || !slices.Contains(names, "default.toml") {
		return names, nil
	}
	for _, name := range []string{"default", pythonEnv, "local", "local-" + pythonEnv} {
		name += ".toml"
		if slices.Contains(names, name) && !slices.Contains(chosen, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen, slices.DeleteFunc(names, func(name string) bool { return slices.Contains(chosen, name) })
}

func readConfigFile(path string) ([]byte, *Error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fileError(path, err)
	}
	if len(data) > maxFile {
		return nil, &Error{File: path, Message: fmt.Sprintf("this file is larger than %d KiB, which no configuration is", maxFile>>10)}
	}
	return data, nil
}

// readRegularFile reads a file of at most limit bytes.
func readRegularFile(path string, limit int64) ([]byte, error) {
	f, _, err := durable.OpenRegular(path)
	if errors.Is(err, durable.ErrNotRegular) {
		return nil, errors.New("it is not a regular file")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d KiB", limit>>10)
	}
	return data, err
}

// readSecretFile reads a secret, without the line end that editors add.
func (h host) readSecretFile(path string) (Secret, error) {
	data, err := h.read(path, maxSecret)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if strings.TrimSpace(secret) == "" {
		return "", errors.New("it is empty")
	}
	return Secret(secret), nil
}

func fileError(path string, err error) *Error {
	e := &Error{File: path, Message: reason(err)}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Suggestion = "check the path given with --config"
	case errors.Is(err, fs.ErrPermission):
		e.Suggestion = "let the user that runs durhack-deployer read it"
	}
	return e
}

// reason says why a file could not be read, without repeating its path.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err.Error()
	}
	return err.Error()
}
