package config

import (
	"cmp"
	"fmt"
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

// sortValues sorts by key, the elements of lists by number.
func sortValues(values []Value) []Value {
	slices.SortStableFunc(values, func(a, b Value) int {
		return cmp.Or(compareKeys(a.Key, b.Key), strings.Compare(a.Key, b.Key))
	})
	return values
}

// compareKeys compares as strings, but runs of digits in brackets as numbers.
func compareKeys(a, b string) int {
	for {
		i, j := strings.IndexByte(a, '['), strings.IndexByte(b, '[')
		if i < 0 || j < 0 || a[:i] != b[:j] {
			return strings.Compare(a, b)
		}
		na, restA, okA := index(a[i+1:])
		nb, restB, okB := index(b[j+1:])
		if !okA || !okB {
			return strings.Compare(a, b)
		}
		if na != nb {
			return cmp.Compare(na, nb)
		}
		a, b = restA, restB
	}
}

func index(s string) (n int, rest string, ok bool) {
	digits, rest, found := strings.Cut(s, "]")
	n, err := strconv.Atoi(digits)
	return n, rest, found && err == nil
}

func quote(s string) string { return strconv.Quote(s) }

func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
