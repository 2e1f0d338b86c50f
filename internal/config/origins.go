package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Value is one effective setting and where it came from.
type Value struct {
	// Key is the dotted path, as in "deployments.web.steps[0].run".
	Key string
	// Value is a string, a bool, an int or a []string; secrets are masked. Durations
	// are strings.
	Value any
	// File and Line say where it was written; empty where it was not.
	File string
	Line int
	// Source is "file", "default", "environment", "credential" or "state_dir".
	Source string
}

// Origin says where the value came from in one word: "web.toml:12", or its Source.
func (v Value) Origin() string {
	if v.File == "" {
		return v.Source
	}
	return fmt.Sprintf("%s:%d", v.File, v.Line)
}

// TOML is the value as a configuration file would have it.
func (v Value) TOML() string {
	switch value := v.Value.(type) {
	case string:
		if value == "" && v.Key == "database_url" {
			return `"" (a private cluster in state_dir)`
		}
		return quote(value)
	case []string:
		return quoteList(value)
	}
	return fmt.Sprint(v.Value)
}

// Origins lists every effective setting, sorted by key, secrets masked.
func (c *Config) Origins() []Value { return slices.Clone(c.origins) }

var elementIndex = regexp.MustCompile(`\[[0-9]+\]`)

// sortValues sorts by key, the elements of lists by number.
func sortValues(byKey map[string]Value) []Value {
	order := func(v Value) string {
		return elementIndex.ReplaceAllStringFunc(v.Key, func(index string) string { return fmt.Sprintf("%20s", index) })
	}
	return slices.SortedFunc(maps.Values(byKey), func(a, b Value) int { return strings.Compare(order(a), order(b)) })
}

func quote(s string) string { return strconv.Quote(s) }

func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
