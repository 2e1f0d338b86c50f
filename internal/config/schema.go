package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// form is what a setting takes.
type form int

const (
	takesString form = iota
	takesInt
	takesBool
	takesDuration   // a string like "90s", or whole seconds
	takesStrings    // a list of strings
	takesOneOrMore  // a string or a list of strings
	takesTable      // a table with known keys
	takesNamed      // a table whose keys are names that people choose
	takesTables     // a list of tables
	takesStringMap  // a table of strings whose keys people choose
	takesVariables  // the same, and a list of strings called pass
	takesTableOrURL // a string, or a table with known keys
	takesAnything   // a key of the Python deployer that has no effect
)

func (f form) String() string {
	return [...]string{
		"a string", "a whole number", "true or false", `a duration like "90s" or "10m", or a whole number of seconds`,
		"a list of strings", "a string or a list of strings", "a table", "a table", "a list of tables",
		"a table of strings", "a table of strings", "a string or a table", "anything",
	}[f]
}

// field describes one setting, or one table of settings.
type field struct {
	form   form
	fields map[string]*field // takesTable, takesTables, takesTableOrURL: the known keys; takesNamed: nil
	each   *field            // takesNamed: what each name holds
	// unused is set for a key that is accepted for the sake of the Python
	// deployer's files: it has no effect, and this says what to do instead.
	unused string
}

// schema is the whole configuration, DESIGN section 7. It is built anew for
// each load so that nothing can change it.
func schema() *field {
	of := func(f form) *field { return &field{form: f} }
	unused := func(f form, instead string) *field { return &field{form: f, unused: instead} }
	table := func(fields map[string]*field) *field { return &field{form: takesTable, fields: fields} }
	hostPort := func() *field {
		return table(map[string]*field{"host": of(takesString), "port": of(takesInt)})
	}
	deployment := table(map[string]*field{
		"repository": of(takesString), "enabled": of(takesBool), "branch": of(takesString), "path": of(takesString),
		"remote": of(takesString), "handler": of(takesString), "timeout": of(takesDuration), "pending": of(takesString),
		"submodules": of(takesBool), "tags": of(takesBool),
		"on_interrupt": of(takesString), "fetch_timeout": of(takesDuration),
		"env": of(takesVariables), "env_file": of(takesOneOrMore),
		"health": {form: takesTableOrURL, fields: map[string]*field{
			"url": of(takesString), "timeout": of(takesDuration),
		}},
		"steps": {form: takesTables, fields: map[string]*field{
			"name": of(takesString), "run": of(takesStrings), "dir": of(takesString),
			"env": of(takesStringMap), "timeout": of(takesDuration),
		}},
		"instance_name": of(takesString), "systemd_unit_name": of(takesString),
		"sites": {form: takesTables, fields: map[string]*field{
			"rule": of(takesString), "select": of(takesStrings),
		}},
		"uwsgi_config_path": of(takesString),
		// Early versions of the Python deployer had these.
		"sites_whitelist": unused(takesAnything, "write [[deployments.<slug>.sites]] rules"),
		"sites_blacklist": unused(takesAnything, "write [[deployments.<slug>.sites]] rules"),
	})
	return table(map[string]*field{
		"origin": of(takesString), "instance": of(takesString), "state_dir": of(takesString), "database_url": of(takesString),
		"webhook_secret_token": of(takesOneOrMore), "webhook_secret_file": of(takesOneOrMore),
		"executable_search_paths": of(takesStrings),
		"env":                     of(takesVariables), "env_file": of(takesOneOrMore),
		"signing_key_file": of(takesString),
		"listen":           hostPort(),
		"admin":            hostPort(),
		"proxy_fix": table(map[string]*field{
			"x_for": of(takesInt), "x_proto": of(takesInt),
			"x_host":   unused(takesInt, "only the client's address and scheme are taken from proxies"),
			"x_port":   unused(takesInt, "only the client's address and scheme are taken from proxies"),
			"x_prefix": unused(takesInt, "only the client's address and scheme are taken from proxies"),
		}),
		"lock":        table(map[string]*field{"url": of(takesString), "ttl": of(takesDuration)}),
		"deployments": {form: takesNamed, each: deployment},
		// Settings of the Python deployer's parts that are gone.
		"celery_task_broker_uri": unused(takesString, "the queue is a directory in state_dir"),
		"flask":                  unused(takesAnything, "there is no Flask any more"),
		"sqlalchemy":             unused(takesAnything, "set database_url"),
		"database":               unused(takesAnything, "set database_url"),
	})
}

// checker compares one file's tree with the schema, before the files are merged:
// each file is strict by itself.
type checker struct {
	root     *field
	errors   []*Error
	warnings []Warning
	unknown  int
}

// maxUnknown bounds how many unknown keys are reported, over all files.
const maxUnknown = 100

// table checks the keys of n. name is its dotted path, "" for the top level.
func (c *checker) table(n *node, fields map[string]*field, name string) {
	for _, key := range n.keys() {
		value, path := n.table[key], join(name, key)
		f := fields[key]
		if f == nil {
			value.bad = true
			if c.unknown++; c.unknown > maxUnknown {
				continue // this is no configuration of ours at all
			}
			c.errors = append(c.errors, &Error{
				File: value.at.file, Line: value.at.line, Column: value.at.column, Key: path,
				Message:    fmt.Sprintf("unknown key %q %s", key, within(name)),
				Suggestion: c.suggest(key, fields),
			})
			continue
		}
		if f.unused != "" {
			c.warnings = append(c.warnings, Warning{
				File: value.at.file, Line: value.at.line, Key: path,
				Message: fmt.Sprintf("%s is accepted from the Python deployer's files and has no effect: %s", path, f.unused),
			})
		}
		c.value(value, f, path)
	}
}

func (c *checker) value(n *node, f *field, path string) {
	wrong := func() {
		n.bad = true
		c.errors = append(c.errors, &Error{
			File: n.at.file, Line: n.at.line, Column: n.at.column, Key: path,
			Message: fmt.Sprintf("%s must be %s, not %s", path, f.form, n.kind),
		})
	}
	strings := func() {
		for i, element := range n.list {
			c.value(element, &field{form: takesString}, fmt.Sprintf("%s[%d]", path, i))
			n.bad = n.bad || element.bad
		}
	}
	switch f.form {
	case takesString:
		if n.kind != isString {
			wrong()
		}
	case takesInt:
		if n.kind != isInt {
			wrong()
		}
	case takesBool:
		if n.kind != isBool {
			wrong()
		}
	case takesDuration:
		if n.kind != isString && n.kind != isInt {
			wrong()
		}
	case takesStrings, takesOneOrMore:
		switch {
		case n.kind == isArray:
			strings()
		case n.kind != isString || f.form == takesStrings:
			wrong()
		}
	case takesTable, takesTableOrURL:
		switch {
		case n.kind == isTable:
			c.table(n, f.fields, path)
		case n.kind != isString || f.form == takesTable:
			wrong()
		}
	case takesNamed:
		if n.kind != isTable {
			wrong()
			return
		}
		for _, name := range n.keys() {
			c.value(n.table[name], f.each, join(path, name))
		}
	case takesTables:
		if n.kind != isArray {
			wrong()
			return
		}
		for i, element := range n.list {
			place := fmt.Sprintf("%s[%d]", path, i)
			if element.kind != isTable {
				c.value(element, &field{form: takesTable}, place)
				n.bad = true
				continue
			}
			c.table(element, f.fields, place)
		}
	case takesStringMap, takesVariables:
		if n.kind != isTable {
			wrong()
			return
		}
		for _, name := range n.keys() {
			each := &field{form: takesString}
			if name == "pass" && f.form == takesVariables {
				each.form = takesStrings
			}
			c.value(n.table[name], each, join(path, name))
		}
	}
}

// suggest names the known key that was most likely meant: one of this table
// that is spelled alike, else the place where the very key belongs.
func (c *checker) suggest(key string, fields map[string]*field) string {
	if near := nearest(key, fields); len(near) > 0 {
		for i, name := range near {
			near[i] = strconv.Quote(name)
		}
		return "did you mean " + strings.Join(near, " or ") + "?"
	}
	if places := c.root.places(key, ""); len(places) > 0 {
		suggestion := "it belongs " + strings.Join(places, " or ")
		if places[0] == within("") {
			suggestion += ", above the first [table]"
		}
		return suggestion
	}
	known := make([]string, 0, len(fields))
	for name, f := range fields {
		if f.unused == "" {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	return "the keys here are " + strings.Join(known, ", ")
}

// places lists the tables that know the key.
func (f *field) places(key, name string) []string {
	var places []string
	if known := f.fields[key]; known != nil && known.unused == "" {
		places = append(places, within(name))
	}
	if f.each != nil {
		places = append(places, f.each.places(key, name+".<slug>")...)
	}
	names := make([]string, 0, len(f.fields))
	for child := range f.fields {
		names = append(names, child)
	}
	slices.Sort(names)
	for _, child := range names {
		places = append(places, f.fields[child].places(key, strings.TrimPrefix(name+"."+child, "."))...)
	}
	return places
}

// within says where a key stands: "in [listen]", "in [[deployments.web.steps]]"
// or "at the top level".
func within(table string) string {
	if table == "" {
		return "at the top level"
	}
	return "in " + header(table)
}

// header writes a table's path the way its header in the file does, so without
// the index of an element of a list.
func header(table string) string {
	if open := strings.LastIndexByte(table, '['); open > 0 && strings.HasSuffix(table, "]") {
		return "[[" + table[:open] + "]]"
	}
	return "[" + table + "]"
}

// join appends a key to a dotted path, quoted where TOML would need it to be.
func join(path, key string) string {
	bare := key != ""
	for _, r := range key {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			bare = false
		}
	}
	if !bare {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
