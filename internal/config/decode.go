package config

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// decoder takes trees into structs by their schema. It gathers everything that is
// wrong, and what each setting is and where it came from.
type decoder struct {
	env  func(string) string
	on   host
	root *field
	at   map[string]position

	errors   []*Error
	warnings []Warning
	values   map[string]Value
	hidden   []Secret
	secrets  []Secret
	files    map[string]envFiles // by the path of their table
	unknown  int
}

// maxUnknown bounds how many unknown keys are reported, over all files.
const maxUnknown = 100

// setting is a value that was written, or an element of a list of them.
type setting struct {
	*decoder
	key  string // the path of its key
	name string // the same, with its place in the list
	at   position
}

func (d *decoder) setting(path string) setting { return setting{d, path, path, d.at[path]} }

// has says that the key was written, well formed or not. The path leads through no
// list: see tree.
func (d *decoder) has(path string) bool { return d.place(path) != position{} }

// place is where the first of the paths that was written is.
func (d *decoder) place(paths ...string) position {
	for _, path := range paths {
		if at, written := d.at[path]; written {
			return at
		}
	}
	return position{}
}

func (d *decoder) fail(at position, key, message, suggestion string) {
	d.errors = append(d.errors, &Error{at.file, at.line, at.column, key, message, suggestion})
}

func (d *decoder) warn(at position, key, message string) {
	d.warnings = append(d.warnings, Warning{at.file, at.line, key, message})
}

func (s setting) fail(message, suggestion string) { s.decoder.fail(s.at, s.key, message, suggestion) }
func (s setting) warn(message string)             { s.decoder.warn(s.at, s.key, message) }

// show notes the value that is shown of a setting, in place of its own.
func (s setting) show(value any, source string) {
	s.values[s.key] = Value{s.key, value, s.at.file, s.at.line, source}
}

// written notes the value of a setting, unless a check has shown it otherwise.
func (s setting) written(value any) {
	if _, shown := s.values[s.key]; !shown {
		s.show(value, "file")
	}
}

// hide remembers a value that no run log may show. Very short ones are let
// through: blotting them out would make ordinary text unreadable.
func (d *decoder) hide(values ...string) {
	for _, value := range values {
		if len(strings.TrimSpace(value)) >= mask.MinSecret {
			d.hidden = append(d.hidden, Secret(value))
		}
	}
}

// strict looks at the keys and the forms of what one file says, and returns what
// stands in the place of v: bad where something is wrong with its form.
func (d *decoder) strict(v any, f *field, path string) any {
	s := d.setting(path)
	if kind, what := kindOf(v); !strings.Contains(f.kinds, kind) {
		s.fail(fmt.Sprintf("%s must be %s, not %s", path, f.form, what), "")
		return bad{}
	}
	if f.unused != "" {
		s.warn(fmt.Sprintf("%s is accepted from the Python deployer's files and has no effect: %s", path, f.unused))
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range sortedKeys(v) {
			known := cmp.Or(f.fields[key], f.each)
			if known != nil {
				v[key] = d.strict(v[key], known, join(path, key))
				continue
			}
			v[key] = bad{}
			if d.unknown++; d.unknown <= maxUnknown { // else this is no configuration of ours at all
				d.setting(join(path, key)).fail(fmt.Sprintf("unknown key %q %s", key, within(path)), d.root.suggest(key, f))
			}
		}
	case []any:
		whole := true
		for i, one := range v {
			whole = d.strict(one, f.each, element(path, i)) != any(bad{}) && whole
		}
		if !whole {
			return bad{}
		}
	}
	return v
}

// table decodes the table at path into a struct.
func (d *decoder) table(m map[string]any, f *field, path string, into reflect.Value) {
	for _, key := range f.keys {
		known, inner := f.fields[key], join(path, key)
		target, need := into.FieldByIndex(known.index), known.tag.Get("need")
		switch v, written := m[key]; {
		case written && v != any(bad{}):
			d.value(v, known, d.setting(inner), target)
		case !written && need != "":
			d.fail(d.at[path], inner, fmt.Sprintf("%s has no %s", header(path), key), "add "+need)
		case known.fields != nil && !known.has("single"):
			d.table(nil, known, inner, target)
		case known.has("default") || known.form == takesInt || known.form == takesBool || known.form == takesString && !target.IsZero():
			d.values[inner] = Value{Key: inner, Value: preset(known, target), Source: "default"}
		}
	}
}

// preset sets a value that is not set yet to what its tag says, and returns it as it
// is shown.
func preset(f *field, into reflect.Value) any {
	text := f.tag.Get("default")
	switch target := into.Addr().Interface().(type) {
	case *int:
		if n, err := strconv.Atoi(text); err == nil {
			*target = n
		}
	case *bool:
		*target = text == "true"
	case *time.Duration:
		*target, _ = parseDuration(text) // where the tag is wrong, the tests see no timeout
		return target.String()
	case *[]string:
		return []string{} // an empty list in JSON, too
	default:
		if into.Kind() == reflect.String {
			into.SetString(cmp.Or(into.String(), text))
			return into.String()
		}
	}
	return into.Interface()
}

// value decodes what strict found to have the right form.
func (d *decoder) value(v any, f *field, s setting, into reflect.Value) {
	switch target := into.Addr().Interface().(type) {
	case *Secret:
		*target = Secret(s.check(f, v.(string)))
		s.written(Secret(v.(string)).String())
	case *bool:
		*target = v.(bool)
		s.written(v)
	case *int:
		*target = int(v.(int64))
		if limit, err := strconv.Atoi(f.tag.Get("max")); err == nil && (*target < 0 || *target > limit) {
			s.fail(fmt.Sprintf("%s must be from 0 to %d, not %d", s.name, limit, v), "")
		}
		s.written(v)
	case *Size:
		*target = s.size(v)
		s.written(target.String())
	case *time.Duration:
		if duration, ok := s.duration(v, f.has("zero")); ok {
			*target = duration
			s.written(duration.String())
		} else {
			preset(f, into)
		}
	case *[]string:
		texts := []string{}
		*target = []string{}
		for _, one := range s.elements(v) {
			texts = append(texts, one.text)
			if text := one.check(f, one.text); text != "" || one.text == "" {
				*target = append(*target, text)
			}
		}
		s.written(texts)
	case *[]Secret: // which the check keeps
		for _, one := range s.elements(v) {
			one.check(f, one.text)
		}
		s.written(mask.Secret)
	case *map[string]string:
		*target = s.variables(v.(map[string]any))
	case *Variables:
		m := v.(map[string]any)
		if pass, ok := m["pass"].([]any); ok {
			d.value(pass, f.fields["pass"], d.setting(join(s.key, "pass")), into.FieldByName("Pass"))
		}
		delete(m, "pass")
		target.Set = s.variables(m)
	default:
		if into.Kind() != reflect.String {
			d.tables(v, f, s, into)
			return
		}
		into.SetString(s.check(f, v.(string)))
		s.written(v)
	}
}

// tables decodes a table, a string that stands for one, a list of tables, or one of
// tables whose names people choose.
func (d *decoder) tables(v any, f *field, s setting, into reflect.Value) {
	switch v := v.(type) {
	case string:
		for _, key := range f.keys {
			if inner := f.fields[key]; key == f.tag.Get("single") {
				d.value(v, inner, s, into.FieldByIndex(inner.index))
			} else {
				preset(inner, into.FieldByIndex(inner.index))
			}
		}
	case []any:
		into.Set(reflect.MakeSlice(into.Type(), len(v), len(v)))
		for i, one := range v {
			d.table(one.(map[string]any), f.each, element(s.key, i), into.Index(i))
		}
		if len(v) == 0 {
			s.written([]string{})
		}
	case map[string]any:
		if f.each == nil {
			d.table(v, f, s.key, into)
			return
		}
		for _, name := range sortedKeys(v) {
			one := d.setting(join(s.key, name))
			if table, ok := v[name].(map[string]any); ok && one.check(f, name) != "" {
				inner := reflect.New(into.Type().Elem().Elem())
				d.table(table, f.each, one.key, inner.Elem())
				into.SetMapIndex(reflect.ValueOf(name), inner)
			}
		}
	}
}

// listElement is an element of a list of strings.
type listElement struct {
	setting
	text string
}

// elements are those of a list, or the string that stands alone.
func (s setting) elements(v any) []listElement {
	list, ok := v.([]any)
	if !ok {
		return []listElement{{s, v.(string)}}
	}
	elements := make([]listElement, len(list))
	for i, one := range list {
		name := element(s.key, i)
		elements[i] = listElement{setting{s.decoder, s.key, name, s.decoder.at[name]}, one.(string)}
	}
	return elements
}

// check checks a text, and returns what of it is kept.
func (s setting) check(f *field, text string) string {
	if choices := strings.Fields(f.tag.Get("choice")); len(choices) > 0 && !slices.Contains(choices, text) {
		suggestion := ""
		if near := nearest(text, choices); len(near) > 0 {
			suggestion = "did you mean " + quote(near[0]) + "?"
		}
		last := len(choices) - 1
		s.fail(fmt.Sprintf("%s must be %s or %q, not %q", s.name, strings.Trim(quoteList(choices[:last]), "[]"), choices[last], text), suggestion)
		return ""
	}
	if check := checks[f.tag.Get("check")]; check != nil {
		return check(s, text)
	}
	return text
}

// duration reads a string, or whole seconds.
func (s setting) duration(v any, zero bool) (time.Duration, bool) {
	var duration time.Duration
	switch v := v.(type) {
	case int64:
		if v > int64(1<<63-1)/int64(time.Second) {
			s.fail(fmt.Sprintf("%s is too long: %d seconds", s.name, v), "")
			return 0, false
		}
		duration = time.Duration(max(v, -1)) * time.Second
	case string:
		var err error
		if duration, err = parseDuration(v); err != nil {
			s.fail(fmt.Sprintf("%s is not a duration: %q", s.name, v), `write it like "90s", "10m", "1h30m" or "90d", or as whole seconds`)
			return 0, false
		}
	}
	if duration < 0 || duration == 0 && !zero {
		s.fail(s.name+" must be more than zero", "")
		return 0, false
	}
	return duration, true
}

// Size is a number of bytes.
type Size int64

// minSize is less than any program needs; who wrote less forgot the letter.
const minSize = 1 << 20

const sizeLetters = "KMGT"

func (b Size) String() string {
	for i := len(sizeLetters) - 1; i >= 0; i-- {
		if unit := Size(1) << (10 * (i + 1)); b != 0 && b%unit == 0 {
			return strconv.FormatInt(int64(b/unit), 10) + sizeLetters[i:i+1]
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// size reads a string like 512M, in units of 1024, or whole bytes.
func (s setting) size(v any) Size {
	n, isNumber := v.(int64)
	if !isNumber {
		text := v.(string)
		number, shift := text, 0
		for i := range sizeLetters {
			if before, ok := strings.CutSuffix(text, sizeLetters[i:i+1]); ok {
				number, shift = before, 10*(i+1)
			}
		}
		parsed, err := strconv.ParseInt(number, 10, 64)
		if err != nil || parsed > math.MaxInt64>>shift {
			s.fail(fmt.Sprintf("%s is not a size: %q", s.name, text), `write it like "512M" or "2G", or as whole bytes`)
			return 0
		}
		n = parsed << shift
	}
	if n < minSize {
		s.fail(fmt.Sprintf("%s must be at least 1M, not %s", s.name, Size(n)), `write it like "512M" or "2G"`)
		return 0
	}
	return Size(n)
}

// parseDuration is time.ParseDuration with days.
func parseDuration(text string) (time.Duration, error) {
	number, rest, days := strings.Cut(text, "d")
	if !days {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseUint(number, 10, 16) // more days than that are no duration in Go
	if err != nil || rest == "" {
		return time.Duration(n) * 24 * time.Hour, err
	}
	more, err := time.ParseDuration(rest)
	return time.Duration(n)*24*time.Hour + more, err
}
