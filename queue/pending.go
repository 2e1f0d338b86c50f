package queue

import (
	"slices"
	"strings"
)

func compareNames(a, b string) int { return strings.Compare(a, b) }

// pending is a sorted set of names. Entries arrive nearly in order and leave
// from the front, so it is a slice with a moving front: both ends are cheap, the
// middle costs a shift of the shorter side, and the k smallest are a subslice.
type pending struct {
	all  []string
	head int // all[:head] is free
}

func (p *pending) names() []string { return p.all[p.head:] }

func (p *pending) len() int { return len(p.all) - p.head }

func (p *pending) has(name string) bool {
	_, found := slices.BinarySearch(p.names(), name)
	return found
}

// add says whether the name is new.
func (p *pending) add(name string) bool {
	names := p.names()
	if len(names) == 0 || names[len(names)-1] < name {
		p.all = append(p.all, name)
		return true
	}
	i, found := slices.BinarySearch(names, name)
	if found {
		return false
	}
	if p.head > 0 && i <= len(names)/2 {
		p.head--
		copy(p.all[p.head:], names[:i])
		p.all[p.head+i] = name
		return true
	}
	p.all = slices.Insert(p.all, p.head+i, name)
	return true
}

// addAll adds names, which it sorts; it says whether any is new.
func (p *pending) addAll(names []string) bool {
	if len(names) == 0 {
		return false
	}
	slices.Sort(names)
	before := p.len()
	if before > 0 {
		names = append(names, p.names()...)
		slices.Sort(names) // two sorted runs
	}
	p.all, p.head = slices.Compact(names), 0
	return p.len() > before
}

func (p *pending) remove(name string) {
	names := p.names()
	i, found := slices.BinarySearch(names, name)
	if !found {
		return
	}
	if i <= len(names)/2 {
		copy(names[1:i+1], names[:i])
		names[0] = ""
		p.head++
		// Give the free front back once it is most of the slice.
		if p.head > 1024 && p.head > len(p.all)/2 {
			p.all, p.head = slices.Clone(p.names()), 0
		}
		return
	}
	p.all = slices.Delete(p.all, p.head+i, p.head+i+1)
}
