// Package mask keeps known secrets out of a stream of output, also where a
// secret is split over several writes.
package mask

import (
	"io"
	"slices"
	"sync"
)

// Text stands in place of a secret, and of secrets that touch or overlap.
const Text = "***"

// Set is a compiled set of secrets, immutable and safe for concurrent use. It is
// an Aho-Corasick automaton, so the time for a byte does not depend on how many
// secrets there are.
type Set struct {
	class   [256]uint16 // 0 is every byte that is in no form
	classes int
	next    []int32 // state*classes + class
	depth   []int32 // of a state: how much of the text could be the start of a form
	match   []int32 // of a state: length of the longest form that ends here, or 0
}

// NewSet compiles the Forms of the secrets; ones shorter than MinSecret are left out.
func NewSet(secrets []string) *Set {
	var forms []string
	for _, secret := range secrets {
		forms = append(forms, Forms(secret)...)
	}
	return compile(forms)
}

func compile(forms []string) *Set {
	s := &Set{classes: 1}
	for _, form := range forms {
		for i := range len(form) {
			if s.class[form[i]] == 0 {
				s.class[form[i]] = uint16(s.classes)
				s.classes++
			}
		}
	}
	s.newState(0)
	for _, form := range forms {
		state := int32(0)
		for i := range len(form) {
			edge := int(state)*s.classes + int(s.class[form[i]])
			if s.next[edge] == 0 {
				s.next[edge] = s.newState(s.depth[state] + 1)
			}
			state = s.next[edge]
		}
		s.match[state] = max(s.match[state], int32(len(form)))
	}
	// Breadth first: the failure state of each is complete before it is needed.
	fail := make([]int32, len(s.depth))
	queue := []int32{0}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		s.match[state] = max(s.match[state], s.match[fail[state]])
		leaf := true
		for c := range s.classes {
			edge := int(state)*s.classes + c
			fallback := int32(0)
			if state != 0 {
				fallback = s.next[int(fail[state])*s.classes+c]
			}
			if child := s.next[edge]; child != 0 {
				fail[child] = fallback
				queue = append(queue, child)
				leaf = false
			} else {
				s.next[edge] = fallback
			}
		}
		if leaf {
			// The form is complete: only a shorter ending can still begin one.
			s.depth[state] = s.depth[fail[state]]
		}
	}
	return s
}

func (s *Set) newState(depth int32) int32 {
	s.next = append(s.next, make([]int32, s.classes)...)
	s.depth = append(s.depth, depth)
	s.match = append(s.match, 0)
	return int32(len(s.depth) - 1)
}

// String returns text with the secrets masked.
func (s *Set) String(text string) string {
	if len(s.depth) == 1 {
		return text
	}
	var out appendWriter
	w := NewWriter(&out, s)
	_, _ = w.Write([]byte(text))
	_ = w.Flush()
	return string(out)
}

type appendWriter []byte

func (a *appendWriter) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// Writer masks what is written to it. It holds back only bytes that may still
// turn out to begin a secret, so at most the longest form less one byte. It is
// safe for concurrent use.
type Writer struct {
	to  io.Writer
	set *Set

	mu    sync.Mutex
	state int32
	held  []byte
	// covered are the masked parts of held, in order, not touching.
	covered []span
	// masked says that the last byte passed on stood in a masked part.
	masked bool
	out    []byte
}

type span struct{ from, to int }

// NewWriter returns a Writer that masks the secrets of set on the way to to.
func NewWriter(to io.Writer, set *Set) *Writer { return &Writer{to: to, set: set} }

// Write takes all of p; the error is that of the underlying Writer.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.set.depth) == 1 {
		return w.to.Write(p)
	}
	before := len(w.held)
	w.held = append(w.held, p...)
	set, state := w.set, w.state
	for i, b := range p {
		state = set.next[int(state)*set.classes+int(set.class[b])]
		if n := set.match[state]; n > 0 {
			end := before + i + 1
			w.cover(span{max(0, end-int(n)), end})
		}
	}
	w.state = state
	return len(p), w.pass(len(w.held) - int(set.depth[state]))
}

// cover adds a masked part; parts come in the order of their ends.
func (w *Writer) cover(c span) {
	for len(w.covered) > 0 {
		last := w.covered[len(w.covered)-1]
		if last.to < c.from {
			break
		}
		c.from = min(c.from, last.from)
		w.covered = w.covered[:len(w.covered)-1]
	}
	w.covered = append(w.covered, c)
}

// pass passes on the first n held bytes.
func (w *Writer) pass(n int) error {
	w.out = w.out[:0]
	at := 0
	used := 0
	for i := range w.covered {
		c := &w.covered[i]
		if c.from >= n {
			break
		}
		w.plain(w.held[at:c.from])
		if !w.masked {
			w.out = append(w.out, Text...)
			w.masked = true
		}
		at = min(c.to, n)
		if c.to <= n {
			used = i + 1
		}
	}
	w.plain(w.held[at:n])
	w.covered = slices.Delete(w.covered, 0, used)
	for i := range w.covered {
		w.covered[i].from = max(0, w.covered[i].from-n)
		w.covered[i].to -= n
	}
	w.held = append(w.held[:0], w.held[n:]...)
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.to.Write(w.out)
	return err
}

func (w *Writer) plain(b []byte) {
	if len(b) > 0 {
		w.out = append(w.out, b...)
		w.masked = false
	}
}

// Flush passes on what is held back. A secret is not recognized across a Flush.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.pass(len(w.held))
	w.state, w.masked = 0, false
	return err
}
