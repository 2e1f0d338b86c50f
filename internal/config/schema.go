package config

import (
	"reflect"
	"strconv"
	"strings"
	"time"
)

// form is what a setting takes, as errors say it.
type form string

const (
	takesString     form = "a string"
	takesInt        form = "a whole number"
	takesBool       form = "true or false"
	takesDuration   form = `a duration like "90s", "10m" or "90d", or a whole number of seconds`
	takesSize       form = `a size like "512M" or "2G", or a whole number of bytes`
	takesStrings    form = "a list of strings"
	takesOneOrMore  form = "a string or a list of strings"
	takesTable      form = "a table"
	takesTableOr    form = "a string or a table"
	takesTables     form = "a list of tables"
	takesStringsMap form = "a table of strings"
	takesAnything   form = "anything"
)

// kinds are the TOML values that have a form.
var kinds = map[form]string{
	takesString: "string", takesInt: "int", takesBool: "bool", takesDuration: "string int", takesSize: "string int", takesStrings: "list",
	takesOneOrMore: "string list", takesTable: "table", takesTableOr: "string table", takesTables: "list",
	takesStringsMap: "table", takesAnything: "string int bool list table other",
}

// kindOf is the kind of a value, and how errors say it.
func kindOf(v any) (kind, what string) {
	switch v.(type) {
	case string:
		return "string", "a string"
	case int64:
		return "int", "a whole number"
	case bool:
		return "bool", "true or false"
	case []any:
		return "list", "a list"
	case map[string]any:
		return "table", "a table"
	}
	return "other", "another kind of value" // floats, dates and times: no setting takes one
}

// field describes one setting, or one table of settings. It is made from a field of
// a struct and its tags:
//
//	toml     the key
//	default  what it is where it was not written
//	preset   the same for the keys of one handler, where the deployment has that one
//	need     it must be written, and this is an example
//	choice   the words that it may be
//	check    the name of one of checks
//	max      the greatest number that it may be
//	zero     a duration: it may be zero
//	single   a list: one string may stand alone; a table: the key for which one does
type field struct {
	form   form
	kinds  string
	tag    reflect.StructTag
	index  []int             // in its struct, or in one that is embedded there
	fields map[string]*field // of a table: the known keys
	keys   []string          // of a table: those with an effect, in order
	each   *field            // what an element of a list holds, or a key that people choose
	// unused is set for a key that is accepted for the sake of the Python
	// deployer's files: it has no effect, and this says what to do instead.
	unused string
}

func (f *field) has(tag string) bool { return f.tag.Get(tag) != "" }

// python are the keys of the Python deployer's files that have no effect.
var python = []struct {
	table, key string
	form       form
	instead    string
}{
	{"", "celery_task_broker_uri", takesString, "the queue is a directory in state_dir"},
	{"", "flask", takesAnything, "there is no Flask any more"},
	{"", "sqlalchemy", takesAnything, "set database_url"},
	{"", "database", takesAnything, "set database_url"},
	{"proxy_fix", "x_host", takesInt, "only the client's address and scheme are taken from proxies"},
	{"proxy_fix", "x_port", takesInt, "only the client's address and scheme are taken from proxies"},
	{"proxy_fix", "x_prefix", takesInt, "only the client's address and scheme are taken from proxies"},
	{"deployments.<slug>", "sites_whitelist", takesAnything, "write [[deployments.<slug>.sites]] rules"},
	{"deployments.<slug>", "sites_blacklist", takesAnything, "write [[deployments.<slug>.sites]] rules"},
}

// schema is the whole configuration, as Config has it.
func schema() *field { return fieldOf(reflect.TypeFor[Config](), "", "") }

// fieldOf describes a type at a path.
func fieldOf(t reflect.Type, tag reflect.StructTag, path string) *field {
	f := &field{tag: tag}
	single := func(one, either form) form {
		if f.has("single") {
			return either
		}
		return one
	}
	switch kind := t.Kind(); {
	case t == reflect.TypeFor[time.Duration]():
		f.form = takesDuration
	case t == reflect.TypeFor[Size]():
		f.form = takesSize
	case t == reflect.TypeFor[Variables](), kind == reflect.Map && t.Elem().Kind() == reflect.String:
		f.form, f.each = takesStringsMap, fieldOf(reflect.TypeFor[string](), "", "")
		f.addFields(t, path)
	case kind == reflect.Int:
		f.form = takesInt
	case kind == reflect.Bool:
		f.form = takesBool
	case kind == reflect.String:
		f.form = takesString
	case kind == reflect.Slice && t.Elem().Kind() == reflect.String:
		f.form, f.each = single(takesStrings, takesOneOrMore), fieldOf(t.Elem(), "", "")
	case kind == reflect.Slice:
		f.form, f.each = takesTables, fieldOf(t.Elem(), "", path)
	case kind == reflect.Map:
		f.form, f.each = takesTable, fieldOf(t.Elem().Elem(), "", path+".<slug>")
	default:
		f.form = single(takesTable, takesTableOr)
		f.addFields(t, path)
	}
	f.kinds = kinds[f.form]
	return f
}

func (f *field) addFields(t reflect.Type, path string) {
	f.fields = map[string]*field{}
	var members []reflect.StructField
	if t.Kind() == reflect.Struct {
		members = reflect.VisibleFields(t)
	}
	hidden := 0 // how deep inside of a table that is embedded, and has a key of its own
	for _, member := range members {
		if hidden > 0 && len(member.Index) > hidden {
			continue
		}
		hidden = 0
		key := member.Tag.Get("toml")
		if key == "" {
			continue
		}
		f.fields[key] = fieldOf(member.Type, member.Tag, join(path, key))
		f.fields[key].index = member.Index
		f.keys = append(f.keys, key)
		if member.Anonymous {
			hidden = len(member.Index)
		}
	}
	for _, old := range python {
		if old.table == path {
			f.fields[old.key] = &field{form: old.form, kinds: kinds[old.form], unused: old.instead}
		}
	}
}

// suggest names the key that was most likely meant: one of the table fields that is
// spelled alike, else the place where the very key belongs.
func (f *field) suggest(key string, table *field) string {
	var known, all []string
	for _, name := range sortedKeys(table.fields) {
		if table.fields[name].unused == "" {
			known = append(known, name)
		} else {
			all = append(all, name)
		}
	}
	if near := nearest(key, append(known, all...)); len(near) > 0 {
		return "did you mean " + strings.ReplaceAll(strings.Trim(quoteList(near), "[]"), ", ", " or ") + "?"
	}
	if places := f.places(key, ""); len(places) > 0 {
		suggestion := "it belongs " + strings.Join(places, " or ")
		if places[0] == within("") {
			suggestion += ", above the first [table]"
		}
		return suggestion
	}
	return "the keys here are " + strings.Join(known, ", ")
}

// places lists the tables that know the key. Where people choose the keys, any may
// be meant.
func (f *field) places(key, name string) []string {
	var places []string
	if known := f.fields[key]; known != nil && known.unused == "" && f.each == nil {
		places = append(places, within(name))
	}
	if f.each != nil {
		if f.form == takesTable {
			name += ".<slug>"
		}
		places = append(places, f.each.places(key, name)...)
	}
	for _, child := range sortedKeys(f.fields) {
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
