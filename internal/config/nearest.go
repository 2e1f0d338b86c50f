package config

import "strings"

// nearest returns the known words that are spelled most like word, in their order;
// nil where none is near enough to be meant.
func nearest(word string, known []string) []string {
	const longest = 64 // no known word is near one that is longer
	best := longest
	var near []string
	for _, name := range known {
		limit := max(1, min(len(name), len(word))/3)
		if len(word) > longest || max(len(name)-len(word), len(word)-len(name)) > limit { // the distance is at least that
			continue
		}
		switch d := distance(strings.ToLower(word), name); {
		case d > min(limit, best):
		case d < best:
			best, near = d, []string{name}
		default:
			near = append(near, name)
		}
	}
	return near
}

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
