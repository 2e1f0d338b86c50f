package config

import (
	"slices"
	"strings"
)

// nearest returns the known keys that are spelled most like key, those that
// still have an effect first; nil where none is near enough to be meant.
func nearest(key string, fields map[string]*field) []string {
	const longest = 64 // no known key is near one that is longer
	if len(key) > longest {
		return nil
	}
	best := 0
	var names []string
	for name := range fields {
		limit := max(1, min(len(name), len(key))/3)
		if abs(len(name)-len(key)) > limit { // the distance is at least that
			continue
		}
		d := distance(strings.ToLower(key), name)
		if d > limit {
			continue
		}
		if names == nil || d < best {
			best, names = d, []string{name}
		} else if d == best {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if (fields[a].unused == "") != (fields[b].unused == "") {
			if fields[a].unused == "" {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}

func abs(n int) int { return max(n, -n) }

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment), by byte.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
