package router

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// aside is a large entry, which is routed beside the others: to read, parse and
// append 25 MiB takes half a second. Others overtake it, but for those of its
// repository and of its delivery, whose order is kept: they are held until it ends,
// and so are other large ones with all that is to come after them.
type aside struct {
	entry queue.Entry
	begun bool
	busy  map[string]bool // repositories and delivery IDs; no name is both, for one has a slash
	held  []queue.Entry
}

// holds says that the entry is to wait, or is itself the large one that begins next.
func (r *Router) holds(e queue.Entry, repository string, large bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch a := r.aside; {
	case a == nil && !large:
		return false
	case a == nil:
		r.aside = &aside{entry: e, busy: map[string]bool{}}
	case !large && !a.busy[repository] && !a.busy[e.DeliveryID]:
		return false
	}
	r.aside.busy[repository], r.aside.busy[e.DeliveryID] = true, true
	r.aside.held = append(r.aside.held, e)
	r.o.Queue.Hold(e)
	return true
}

// begin returns what routes the large entry, if one is to begin.
func (r *Router) begin(ctx context.Context) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.aside
	if a == nil || a.begun {
		return nil
	}
	a.begun = true
	return func() {
		defer r.release()
		rules := r.o.Rules()
		w, ok := r.read(a.entry, rules)
		if !ok {
			return
		}
		if err := r.commit(ctx, []work{w}, rules); err != nil && ctx.Err() == nil {
			r.rest(a.entry, err)
		}
	}
}

// release lets go on what waited for the large entry, and the entry if it is still there.
func (r *Router) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.aside != nil {
		r.o.Queue.Release(r.aside.held...)
		r.aside = nil
	}
}

// peek says whether an entry is large, and of which repository; one that does not
// say its repository at once takes its turn among the others.
func (r *Router) peek(e queue.Entry) (repository string, large bool) {
	f, err := r.o.Queue.Open(e)
	if err != nil {
		return "", false // Read will tell
	}
	defer f.Close() // opened to read
	if info, err := f.Stat(); err != nil || info.Size() < r.o.Large || info.Size() > queue.MaxEntry {
		return "", false
	}
	body, ok := delivery.BodyOf(f)
	if !ok {
		return "", false
	}
	repository = repositoryOf(body)
	return repository, repository != ""
}

// repositoryOf reads a body, JSON or form, up to its repository; "" where there is none.
func repositoryOf(body io.Reader) string {
	in := bufio.NewReader(body)
	if first, _ := in.Peek(1); string(first) != "{" {
		if _, err := in.ReadString('='); err != nil { // the field payload, if it is the first
			return ""
		}
		in = bufio.NewReader(field{in})
	}
	object := json.NewDecoder(in)
	if token, err := object.Token(); err != nil || token != json.Delim('{') {
		return ""
	}
	for object.More() {
		key, err := object.Token()
		if err != nil {
			return ""
		}
		var value json.RawMessage
		if object.Decode(&value) != nil {
			return ""
		}
		if key == "repository" {
			return lowerASCII(member(value, "full_name"))
		}
	}
	return ""
}

// field decodes the value of a form's field.
type field struct{ in *bufio.Reader }

func (f field) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c, err := f.in.ReadByte()
		switch {
		case err != nil:
			return n, err
		case c == '&':
			return n, io.EOF
		case c == '+':
			c = ' '
		case c == '%':
			var digits, decoded [2]byte
			if _, err := io.ReadFull(f.in, digits[:]); err != nil {
				return n, err
			}
			if _, err := hex.Decode(decoded[:], digits[:]); err != nil {
				return n, err
			}
			c = decoded[0]
		}
		p[n] = c
		n++
	}
	return n, nil
}
