package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// position is where a setting was written.
type position struct {
	file         string
	line, column int
}

// tree is what one file says, or several that were merged: the values as the TOML
// decoder gives them, and where each was written, by its path. What a later file
// replaced may have left paths behind that no value has any more.
type tree struct {
	root map[string]any
	at   map[string]position
}

// bad stands in a tree in place of a value of which an error was reported.
type bad struct{}

// merge lays over on top of t, key by key: tables are merged, everything else
// (lists too) is replaced whole.
func (t tree) merge(over tree) {
	tables := map[string]position{} // those stay where they were opened first
	var merge func(base, over map[string]any, path string)
	merge = func(base, over map[string]any, path string) {
		for key, value := range over {
			table, isTable := value.(map[string]any)
			old, wasTable := base[key].(map[string]any)
			if !isTable || !wasTable {
				base[key] = value
				continue
			}
			tables[join(path, key)] = t.at[join(path, key)]
			merge(old, table, join(path, key))
		}
	}
	merge(t.root, over.root, "")
	maps.Copy(t.at, over.at)
	maps.Copy(t.at, tables)
}

// parseTOML parses one file.
func parseTOML(file string, data []byte) (tree, *Error) {
	// Editors on Windows put a byte order mark first; TOML has no place for one.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return tree{}, &Error{File: file, Line: 1, Column: 1, Message: "this file is UTF-16", Suggestion: "save it as UTF-8"}
	}
	t := tree{map[string]any{}, map[string]position{}}
	if err := toml.Unmarshal(data, &t.root); err != nil {
		return tree{}, syntaxError(file, err)
	}
	// The decoder keeps no positions; its parser does. What is walked over here
	// was found to be right above.
	l := locator{file: file, lines: []int{0}, at: t.at, elements: map[string]int{}}
	for i, b := range data {
		if b == '\n' {
			l.lines = append(l.lines, i+1)
		}
	}
	l.Reset(data)
	table := ""
	for l.NextExpression() {
		switch e := l.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = l.header(e.Key(), e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			l.assign(table, e)
		}
	}
	if err := l.Error(); err != nil {
		return tree{}, syntaxError(file, err)
	}
	return t, nil
}

func syntaxError(file string, err error) *Error {
	e := &Error{File: file, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		e.Line, e.Column = decode.Position()
	}
	return e
}

// locator notes where each path of a file is.
type locator struct {
	unstable.Parser
	file     string
	lines    []int // where each begins
	at       map[string]position
	elements map[string]int // of arrays of tables, so far
}

// note is the position of a path, which is where it was met first.
func (l *locator) note(path string, raw unstable.Range) position {
	if at, known := l.at[path]; known {
		return at
	}
	offset := int(raw.Offset)
	line := sort.SearchInts(l.lines, offset+1)
	l.at[path] = position{l.file, line, offset - l.lines[line-1] + 1}
	return l.at[path]
}

// header returns the path of the table that a header opens. Where a part of it is
// an array of tables, its last element is meant (TOML 1.0, "Array of Tables").
func (l *locator) header(key unstable.Iterator, array bool) (path string) {
	for key.Next() {
		part := key.Node()
		path = join(path, string(part.Data))
		l.note(path, part.Raw)
		if array && key.IsLast() {
			l.elements[path]++
		}
		if n := l.elements[path]; n > 0 {
			path = element(path, n-1)
			l.note(path, part.Raw)
		}
	}
	return path
}

func (l *locator) assign(path string, keyValue *unstable.Node) {
	var at position
	for key := keyValue.Key(); key.Next(); {
		path = join(path, string(key.Node().Data))
		at = l.note(path, key.Node().Raw)
	}
	l.value(path, at, keyValue.Value())
}

// value notes what is inside of a value. Lists and inline tables in a list carry
// no position of their own: they are where the list's key is.
func (l *locator) value(path string, at position, v *unstable.Node) {
	i := 0
	for it := v.Children(); it.Next(); {
		if v.Kind == unstable.InlineTable {
			l.assign(path, it.Node())
			continue
		}
		inner := element(path, i)
		if raw := it.Node().Raw; raw.Length > 0 {
			l.note(inner, raw)
		} else {
			l.at[inner] = at
		}
		l.value(inner, l.at[inner], it.Node())
		i++
	}
}

// element is the path of an element of a list.
func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
