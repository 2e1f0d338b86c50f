package queue

import "slices"

// pending is a sorted set of names. Entries arrive nearly in order and leave
// near the front, so that both ends are cheap, and the k smallest are a subslice.
type pending []string

func (p pending) has(name string) bool {
	_, found := slices.BinarySearch(p, name)
	return found
}

// add adds names, of which many are best given in order; it says whether any is new.
func (p *pending) add(names ...string) (grown bool) {
	for _, name := range names {
		if n := len(*p); n == 0 || (*p)[n-1] < name {
			*p, grown = append(*p, name), true
		} else if i, found := slices.BinarySearch(*p, name); !found {
			*p, grown = slices.Insert(*p, i, name), true
		}
	}
	return grown
}

func (p *pending) remove(name string) {
	names := *p
	i, found := slices.BinarySearch(names, name)
	switch {
	case !found:
	case i > len(names)/2:
		*p = slices.Delete(names, i, i+1)
	default: // those before it move, and the place in front goes with the next growth
		copy(names[1:i+1], names[:i])
		names[0] = ""
		*p = names[1:]
	}
}
