package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// variables are what [env], env and env_file give to git and the steps.
type variables struct {
	// pass are the names of the daemon's own variables that are passed on.
	pass []string
	set  map[string]string
}

// list is NAME=value, with what is set after what is passed on; getenv looks up
// the daemon's own.
func (v variables) list(getenv func(string) string) []string {
	var list []string
	for _, name := range v.pass {
		if value := getenv(name); value != "" {
			list = append(list, name+"="+value)
		}
	}
	for _, name := range sortedKeys(v.set) {
		list = append(list, name+"="+v.set[name])
	}
	return list
}

// variables reads env_file and env, in this order, on top of base. used says that
// something will run with them, so that a file that cannot be read is a problem.
func (t table) variables(base variables, used bool) variables {
	v := variables{pass: slices.Clone(base.pass), set: maps.Clone(base.set)}
	if v.set == nil {
		v.set = map[string]string{}
	}
	own := t.sub("env")
	names, nodes := own.strings("pass")
	for i, name := range names {
		if !variablePattern.MatchString(name) {
			own.fail(nodes[i], "pass", fmt.Sprintf("%s is not the name of a variable: %q", join(own.name, "pass"), name), "use letters, digits and underscores, the first no digit")
			continue
		}
		if value := t.env(name); secretName(name) {
			t.hide(value)
		}
		v.pass = append(v.pass, name)
		delete(v.set, name)
	}
	if n := own.get("pass"); n != nil {
		own.record("pass", names, n)
	}
	t.envFiles(v.set, used)
	maps.Copy(v.set, own.assignments("pass"))
	return v
}

// assignments reads a table of variables, but for the keys that are none.
func (t table) assignments(except ...string) map[string]string {
	set := map[string]string{}
	if t.node == nil {
		return set
	}
	for _, name := range t.node.keys() {
		value := t.node.table[name]
		if value.bad || slices.Contains(except, name) {
			continue
		}
		switch {
		case !variablePattern.MatchString(name):
			t.fail(value, name, fmt.Sprintf("%s is not the name of a variable: %q", t.name, name), "use letters, digits and underscores, the first no digit")
			continue
		case strings.ContainsRune(value.text, 0):
			t.fail(value, name, fmt.Sprintf("%s has a NUL character, which no variable can hold", join(t.name, name)), "")
			continue
		}
		set[name] = value.text
		t.record(name, t.hideVariable(name, value.text), value)
	}
	return set
}

// hideVariable keeps what of a variable is secret out of run logs, and returns
// the value as it may be shown.
func (r *reader) hideVariable(name, value string) string {
	if secretName(name) {
		r.hide(value)
	}
	password, _ := mask.Password(value)
	r.hide(password)
	return shownVariable(name, value)
}

func shownVariable(name, value string) string {
	if secretName(name) {
		return masked
	}
	if _, has := mask.Password(value); has {
		return mask.URL(value)
	}
	return value
}

// envFiles reads the files that env_file names, each on top of the one before.
func (t table) envFiles(set map[string]string, used bool) {
	const key = "env_file"
	paths, nodes := t.strings(key)
	for i, path := range paths {
		if !filepath.IsAbs(path) {
			t.fail(nodes[i], key, fmt.Sprintf("%s must be an absolute path, not %q", join(t.name, key), path), `begin it with "/"`)
			continue
		}
		data, err := t.on.read(path, maxFile)
		if err != nil {
			e := &Error{
				File: nodes[i].at.file, Line: nodes[i].at.line, Column: nodes[i].at.column, Key: join(t.name, key),
				Message:    fmt.Sprintf("%s %q cannot be used: %s", join(t.name, key), path, reason(err)),
				Suggestion: secretFileAdvice(err),
			}
			switch {
			case !errors.Is(err, fs.ErrPermission):
				t.errors = append(t.errors, e)
			case used:
				// Commands and listeners of other users can do without what only
				// the worker's user may read.
				t.problems = append(t.problems, e)
			}
			continue
		}
		list, line, wrong := parseDotenv(string(data))
		if wrong != "" {
			t.failAt(position{file: path, line: line}, join(t.name, key), wrong, `write it like NAME=value or NAME="a value"`)
		}
		for _, a := range list {
			set[a.name] = a.value
			t.values = append(t.values, Value{
				Key: join(join(t.name, "env"), a.name), Value: t.hideVariable(a.name, a.value), Source: "file", File: path, Line: a.line,
			})
		}
	}
	if n := t.get(key); n != nil {
		t.record(key, paths, n)
	}
}
