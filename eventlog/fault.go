package eventlog

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// Fault is something that is not as it was appended.
type Fault struct {
	// Position is where, and Last is the end of a range of which all is the
	// same. Position is 0 for what has no position.
	Position, Last int64
	// Text says what is wrong, for people.
	Text string
}

// String names the place and what is wrong with it.
func (f Fault) String() string {
	switch {
	case f.Position == 0:
		return f.Text
	case f.Last > f.Position:
		return fmt.Sprintf("positions %d to %d: %s", f.Position, f.Last, f.Text)
	}
	return fmt.Sprintf("position %d: %s", f.Position, f.Text)
}

// maxFaults bounds what is remembered of a log that is wrong throughout; the
// count goes on.
const maxFaults = 1000

// faults collects what is found; several goroutines may add to it.
type faults struct {
	mu   sync.Mutex
	list []Fault
	more int64
}

func (c *faults) add(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.Last = max(f.Last, f.Position)
	if n := len(c.list); n > 0 && f.Position > 0 && c.list[n-1].Last == f.Position-1 && c.list[n-1].Text == f.Text {
		c.list[n-1].Last = f.Last
		return
	}
	if len(c.list) == maxFaults {
		c.more++
		return
	}
	c.list = append(c.list, f)
}

func (c *faults) addf(position int64, format string, args ...any) {
	c.add(Fault{Position: position, Text: fmt.Sprintf(format, args...)})
}

// sorted returns what was found, by position.
func (c *faults) sorted() ([]Fault, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortStableFunc(c.list, func(a, b Fault) int { return cmp.Compare(a.Position, b.Position) })
	return c.list, c.more
}
