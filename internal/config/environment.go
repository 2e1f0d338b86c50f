package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

var (
	variablePattern = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	secretPattern   = regexp.MustCompile(`(?i)SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|AUTH|KEY|_URL\z|\AURL\z|DSN|_PAT\z`)
)

// secretName says whether a variable's name tells that its value should not be
// shown. URLs count, because they so often contain a password.
func secretName(name string) bool { return secretPattern.MatchString(name) }

// list is NAME=value, with what is set after what is passed on; getenv looks up
// the daemon's own.
func (v Variables) list(getenv func(string) string) []string {
	var list []string
	for _, name := range v.Pass {
		if value := getenv(name); value != "" {
			list = append(list, name+"="+value)
		}
	}
	for _, name := range sortedKeys(v.Set) {
		list = append(list, name+"="+v.Set[name])
	}
	return list
}

// envFiles are what the files of an env_file set, and those of them that this user
// may not read.
type envFiles struct {
	set        map[string]string
	unreadable []*Error
}

// variablesOf are those of the table at path: its env_file and then its env, on top
// of base. used says that something will run with them, so that a file that cannot
// be read is a problem.
func (d *decoder) variablesOf(c *Config, path string, base, own Variables, used bool) Variables {
	files := d.files[path]
	if used {
		// Commands and listeners of other users can do without what only the
		// worker's user may read.
		c.problems = append(c.problems, files.unreadable...)
	}
	v := Variables{Pass: slices.Concat(base.Pass, own.Pass)}
	for i, set := range []map[string]string{base.Set, files.set, own.Set} {
		if i == 1 { // what is passed on takes the place of what was set around it
			maps.DeleteFunc(v.Set, func(name, _ string) bool { return slices.Contains(own.Pass, name) })
		}
		if v.Set == nil && len(set) > 0 {
			v.Set = map[string]string{}
		}
		maps.Copy(v.Set, set)
	}
	return v
}

func checkPass(s setting, name string) string {
	if !variablePattern.MatchString(name) {
		s.wrongVariable(s.key, name)
		return ""
	}
	if secretName(name) {
		s.hide(s.env(name))
	}
	return name
}

func (s setting) wrongVariable(table, name string) {
	s.fail(fmt.Sprintf("%s is not the name of a variable: %q", table, name), "use letters, digits and underscores, the first no digit")
}

// variables are those that are written in a table.
func (s setting) variables(table map[string]any) map[string]string {
	var set map[string]string
	for _, name := range sortedKeys(table) {
		one := s.decoder.setting(join(s.key, name))
		value, ok := table[name].(string)
		switch {
		case !ok: // which was reported
		case !variablePattern.MatchString(name):
			one.wrongVariable(s.key, name)
		case strings.ContainsRune(value, 0):
			one.fail(one.key+" has a NUL character, which no variable can hold", "")
		default:
			if set == nil {
				set = map[string]string{}
			}
			set[name] = value
			one.show(s.hideVariable(name, value), "file")
		}
	}
	return set
}

// hideVariable keeps what of a variable is secret out of run logs, and returns
// the value as it may be shown.
func (d *decoder) hideVariable(name, value string) string {
	if secretName(name) {
		d.hide(value)
	}
	password, _ := mask.Password(value)
	d.hide(password)
	return shownVariable(name, value)
}

func shownVariable(name, value string) string {
	if secretName(name) {
		return mask.Secret
	}
	if _, has := mask.Password(value); has {
		return mask.URL(value)
	}
	return value
}

func shownVariables(set map[string]string) map[string]string {
	shown := make(map[string]string, len(set))
	for name, value := range set {
		shown[name] = shownVariable(name, value)
	}
	return shown
}

// checkEnvFile reads a file that env_file names, on top of those before.
func checkEnvFile(s setting, path string) string {
	if !s.absolute(path) {
		return ""
	}
	table := strings.TrimSuffix(strings.TrimSuffix(s.key, "env_file"), ".")
	files := s.files[table]
	defer func() { s.files[table] = files }()
	data, err := s.on.read(path, maxFile)
	if err != nil {
		e := &Error{s.at.file, s.at.line, s.at.column, s.key, fmt.Sprintf("%s %q cannot be used: %s", s.key, path, reason(err)), secretFileAdvice(err)}
		if errors.Is(err, fs.ErrPermission) {
			files.unreadable = append(files.unreadable, e)
		} else {
			s.errors = append(s.errors, e)
		}
		return path
	}
	list, line, wrong := parseDotenv(string(data))
	if wrong != "" {
		s.decoder.fail(position{file: path, line: line}, s.key, wrong, `write it like NAME=value or NAME="a value"`)
	}
	for _, a := range list {
		if files.set == nil {
			files.set = map[string]string{}
		}
		files.set[a.name] = a.value
		key := join(join(table, "env"), a.name)
		s.values[key] = Value{key, s.hideVariable(a.name, a.value), path, a.line, "file"}
	}
	return path
}
