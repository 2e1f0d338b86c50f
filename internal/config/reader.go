package config

import (
	"fmt"
	"strings"
	"time"
)

// reader turns the merged tree into a Config: it takes each value once, checks
// it, applies its default and records where it came from.
type reader struct {
	env      func(string) string
	on       host
	errors   []*Error
	problems []*Error // see Config.Problems
	warnings []Warning
	values   []Value
	hidden   []Secret
}

// table is one table that is being read; node is nil where it was not written.
type table struct {
	*reader
	node *node
	name string
}

func (t table) sub(key string) table {
	n := t.get(key)
	if n != nil && n.kind != isTable {
		n = nil
	}
	return table{reader: t.reader, node: n, name: join(t.name, key)}
}

// get returns the value of a key, or nil where it was not written or not well formed.
func (t table) get(key string) *node {
	if t.node == nil {
		return nil
	}
	if n := t.node.table[key]; n != nil && !n.bad {
		return n
	}
	return nil
}

// has says that the key was written, well formed or not.
func (t table) has(key string) bool { return t.node != nil && t.node.table[key] != nil }

func (t table) string(key, otherwise string) (string, *node) {
	n := t.get(key)
	if n == nil {
		if !t.has(key) && otherwise != "" {
			t.record(key, otherwise, nil)
		}
		return otherwise, nil
	}
	t.record(key, n.text, n)
	return n.text, n
}

func (t table) bool(key string, otherwise bool) bool {
	n := t.get(key)
	if n == nil {
		t.record(key, otherwise, nil)
		return otherwise
	}
	t.record(key, n.truth, n)
	return n.truth
}

// int reads a whole number within [0, limit].
func (t table) int(key string, otherwise, limit int) int {
	n := t.get(key)
	if n == nil {
		t.record(key, otherwise, nil)
		return otherwise
	}
	t.record(key, n.whole, n)
	if n.whole < 0 || n.whole > int64(limit) {
		t.fail(n, key, fmt.Sprintf("%s must be from 0 to %d, not %d", join(t.name, key), limit, n.whole), "")
		return otherwise
	}
	return int(n.whole)
}

// duration reads a positive duration; 0 is otherwise's way to say "none".
func (t table) duration(key string, otherwise time.Duration) time.Duration {
	n := t.get(key)
	if n == nil {
		if otherwise != 0 {
			t.record(key, otherwise.String(), nil)
		}
		return otherwise
	}
	name := join(t.name, key)
	var d time.Duration
	if n.kind == isInt {
		const most = int64(1<<63-1) / int64(time.Second)
		if n.whole > most {
			t.fail(n, key, fmt.Sprintf("%s is too long: %d seconds", name, n.whole), "")
			return otherwise
		}
		d = time.Duration(max(n.whole, -1)) * time.Second
	} else {
		var err error
		if d, err = time.ParseDuration(n.text); err != nil {
			t.fail(n, key, fmt.Sprintf("%s is not a duration: %q", name, n.text), `write it like "90s", "10m" or "1h30m", or as whole seconds`)
			return otherwise
		}
	}
	if d <= 0 {
		t.fail(n, key, name+" must be more than zero", "")
		return otherwise
	}
	t.record(key, d.String(), n)
	return d
}

// choice reads a string that must be one of a few.
func (t table) choice(key, otherwise string, choices ...string) string {
	text, n := t.string(key, otherwise)
	if n == nil {
		return otherwise
	}
	fields := map[string]*field{}
	quoted := make([]string, len(choices))
	for i, choice := range choices {
		if text == choice {
			return text
		}
		fields[choice], quoted[i] = &field{}, quote(choice)
	}
	suggestion := ""
	if near := nearest(text, fields); len(near) > 0 {
		suggestion = "did you mean " + quote(near[0]) + "?"
	}
	last := len(quoted) - 1
	t.fail(n, key, fmt.Sprintf("%s must be %s or %s, not %q", join(t.name, key), strings.Join(quoted[:last], ", "), quoted[last], text), suggestion)
	return otherwise
}

// strings reads a list of strings (or a single one, where the schema lets one stand).
func (t table) strings(key string) ([]string, []*node) {
	n := t.get(key)
	if n == nil {
		return nil, nil
	}
	if n.kind == isString {
		return []string{n.text}, []*node{n}
	}
	list := make([]string, len(n.list))
	for i, element := range n.list {
		list[i] = element.text
	}
	return list, n.list
}

// fail reports that the value n of a key is wrong.
func (t table) fail(n *node, key, message, suggestion string) {
	t.failAt(n.at, join(t.name, key), message, suggestion)
}

func (r *reader) failAt(at position, key, message, suggestion string) {
	r.errors = append(r.errors, &Error{
		File: at.file, Line: at.line, Column: at.column, Key: key, Message: message, Suggestion: suggestion,
	})
}

func (r *reader) warn(at position, key, message string) {
	r.warnings = append(r.warnings, Warning{File: at.file, Line: at.line, Key: key, Message: message})
}

// record notes where the value of a key came from: n, or nil for the default.
func (t table) record(key string, value any, n *node) {
	if list, ok := value.([]string); ok && list == nil {
		value = []string{} // an empty list in JSON, too
	}
	v := Value{Key: join(t.name, key), Value: value, Source: "default"}
	if n != nil {
		v.File, v.Line, v.Source = n.at.file, n.at.line, "file"
	}
	t.values = append(t.values, v)
}

// hide remembers a value that no run log may show. Very short ones are let
// through: blotting them out would make ordinary text unreadable.
func (r *reader) hide(value string) {
	const shortest = 4
	if len(strings.TrimSpace(value)) >= shortest {
		r.hidden = append(r.hidden, Secret(value))
	}
}
