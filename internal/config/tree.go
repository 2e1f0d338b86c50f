package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is what a TOML value is, as far as a setting can care.
type kind int

const (
	isTable kind = iota
	isArray
	isString
	isInt
	isBool
	isOther // floats, dates and times: no setting takes one
)

func (k kind) String() string {
	return [...]string{"a table", "a list", "a string", "a whole number", "true or false", "another kind of value"}[k]
}

// position is where a setting was written.
type position struct {
	file         string
	line, column int
}

// node is one value of the merged configuration together with where it came
// from. A decoder to Go structs would lose the position of every value that is
// well formed, and those are needed for semantic errors and for Origins.
type node struct {
	kind  kind
	at    position
	table map[string]*node
	list  []*node
	text  string // strings
	whole int64  // whole numbers
	truth bool   // booleans
	// bad says that an error about it was reported: nothing reads it any more.
	bad bool
}

func newTable(at position) *node { return &node{kind: isTable, at: at, table: map[string]*node{}} }

// keys returns the table's keys, sorted.
func (n *node) keys() []string {
	keys := make([]string, 0, len(n.table))
	for key := range n.table {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// merge lays over on top of base, key by key: tables are merged, everything
// else (lists too) is replaced whole.
func merge(base, over *node) {
	for key, value := range over.table {
		if old := base.table[key]; old != nil && old.kind == isTable && value.kind == isTable {
			merge(old, value)
			continue
		}
		base.table[key] = value
	}
}

// parseTOML parses one file. The error is an *Error with the file's name.
func parseTOML(file string, data []byte) (*node, error) {
	// Editors on Windows put a byte order mark first; TOML has no place for one.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, &Error{File: file, Line: 1, Column: 1, Message: "this file is UTF-16", Suggestion: "save it as UTF-8"}
	}
	// The decoder checks everything that the syntax tree alone does not say:
	// keys that are defined twice, tables that are reopened, dates.
	var everything map[string]any
	if err := toml.Unmarshal(data, &everything); err != nil {
		return nil, syntaxError(file, err)
	}
	p := treeParser{file: file, lines: lineStarts(data)}
	root := newTable(position{file: file})
	current := root
	p.Reset(data)
	for p.NextExpression() {
		expression := p.Expression()
		var err error
		switch expression.Kind {
		case unstable.Table:
			current, err = p.enter(root, expression.Key(), false)
		case unstable.ArrayTable:
			current, err = p.enter(root, expression.Key(), true)
		case unstable.KeyValue:
			err = p.assign(current, expression)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := p.Error(); err != nil {
		return nil, syntaxError(file, err)
	}
	return root, nil
}

func syntaxError(file string, err error) error {
	e := &Error{File: file, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		e.Line, e.Column = decode.Position()
	}
	return e
}

// lineStarts lists the offset of each line's first byte.
func lineStarts(data []byte) []int {
	starts := []int{0}
	for i, b := range data {
		if b == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// treeParser turns the parser's expressions into nodes with positions.
type treeParser struct {
	unstable.Parser
	file  string
	lines []int
}

func (p *treeParser) position(r unstable.Range) position {
	offset := int(r.Offset)
	line := sort.SearchInts(p.lines, offset+1)
	return position{file: p.file, line: line, column: offset - p.lines[line-1] + 1}
}

// enter finds or makes the table that a header opens. Where a part of the key
// is an array of tables, its last element is meant (TOML 1.0, "Array of Tables").
func (p *treeParser) enter(root *node, key unstable.Iterator, array bool) (*node, error) {
	current := root
	for key.Next() {
		part := key.Node()
		at, name := p.position(part.Raw), string(part.Data)
		next := current.table[name]
		if array && key.IsLast() {
			if next == nil {
				next = &node{kind: isArray, at: at}
				current.table[name] = next
			}
			if next.kind != isArray {
				return nil, conflict(at, name)
			}
			element := newTable(at)
			next.list = append(next.list, element)
			return element, nil
		}
		if next == nil {
			next = newTable(at)
			current.table[name] = next
		}
		if next.kind == isArray && len(next.list) > 0 {
			next = next.list[len(next.list)-1]
		}
		if next.kind != isTable {
			return nil, conflict(at, name)
		}
		current = next
	}
	return current, nil
}

func (p *treeParser) assign(table *node, keyValue *unstable.Node) error {
	key := keyValue.Key()
	for key.Next() {
		part := key.Node()
		at, name := p.position(part.Raw), string(part.Data)
		next := table.table[name]
		if !key.IsLast() {
			if next == nil {
				next = newTable(at)
				table.table[name] = next
			}
			if next.kind != isTable {
				return conflict(at, name)
			}
			table = next
			continue
		}
		if next != nil {
			return conflict(at, name)
		}
		value, err := p.value(keyValue.Value(), at)
		if err != nil {
			return err
		}
		table.table[name] = value
	}
	return nil
}

// value converts one value; at is the position of its key, which is where
// errors about it point (lists and inline tables carry no position of their own).
func (p *treeParser) value(v *unstable.Node, at position) (*node, error) {
	n := &node{at: at}
	switch v.Kind {
	case unstable.String:
		n.kind, n.text = isString, string(v.Data)
	case unstable.Bool:
		n.kind, n.truth = isBool, string(v.Data) == "true"
	case unstable.Integer:
		whole, err := strconv.ParseInt(string(v.Data), 0, 64)
		if err != nil {
			// "08" is no number in TOML and the range was checked: what is left
			// is a leading plus or underscores, which base 0 takes as well.
			return nil, &Error{File: at.file, Line: at.line, Column: at.column, Message: "not a whole number of 64 bits"}
		}
		n.kind, n.whole = isInt, whole
	case unstable.Array:
		n.kind = isArray
		for it := v.Children(); it.Next(); {
			place := at
			if raw := it.Node().Raw; raw.Length > 0 {
				place = p.position(raw)
			}
			element, err := p.value(it.Node(), place)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, element)
		}
	case unstable.InlineTable:
		n.kind, n.table = isTable, map[string]*node{}
		for it := v.Children(); it.Next(); {
			if err := p.assign(n, it.Node()); err != nil {
				return nil, err
			}
		}
	default:
		n.kind = isOther
	}
	return n, nil
}

func conflict(at position, name string) error {
	return &Error{File: at.file, Line: at.line, Column: at.column, Key: name, Message: fmt.Sprintf("key %q is defined twice", name)}
}
