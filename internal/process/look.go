package process

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// LookPath finds a program: in searchPaths, then in the directories of the PATH
// of env. Relative directories are not looked at: what runs must
// not depend on what a repository contains. A name with a slash is a path,
// relative to dir. The error is a *NotFoundError.
func LookPath(program, dir string, searchPaths, env []string) (string, error) {
	if strings.Contains(program, "/") {
		full := program
		if !filepath.IsAbs(full) {
			full = filepath.Join(dir, program)
		}
		if ok, detail := executable(full); !ok {
			return "", &NotFoundError{Program: program, Detail: detail}
		}
		// exec resolves a relative path after the change to Dir.
		return program, nil
	}
	var searched []string
	detail := ""
	for _, d := range slices.Concat(searchPaths, filepath.SplitList(getenv(env, "PATH"))) {
		if !filepath.IsAbs(d) || slices.Contains(searched, d) {
			continue
		}
		searched = append(searched, d)
		full := filepath.Join(d, program)
		ok, why := executable(full)
		if ok {
			return full, nil
		}
		if detail == "" {
			detail = why
		}
	}
	return "", &NotFoundError{Program: program, Searched: searched, Detail: detail}
}

// executable says whether path can be executed; detail says why a file that is
// there cannot.
func executable(path string) (ok bool, detail string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return false, ""
	case info.IsDir():
		return false, path + " is a directory"
	case !info.Mode().IsRegular():
		return false, path + " is not a regular file"
	case unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) != nil:
		return false, path + " is not executable"
	}
	return true, ""
}

// getenv returns the last value of name in env, as exec does.
func getenv(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v
		}
	}
	return ""
}
