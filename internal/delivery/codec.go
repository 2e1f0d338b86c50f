package delivery

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// An entry is one JSON object whose last member is the body:
//
//	{"v":1,"delivery_id":...,"salt":"...","body":"<base64>"}
//
// The writer streams the body into that last member and the reader cuts it out
// again without having a JSON parser walk over up to 33 MiB of base64. Any other
// JSON object with the same members is read too, only slower.
const (
	bodyMember = `,"body":"`
	entryEnd   = `"}`
	nullBody   = `,"body":null}` // how encoding/json ends an entry that has no body
)

// encodeBuffer is the size of the writes that EncodeTo makes: an ordinary push
// (8 KiB of body) is one write.
const encodeBuffer = 32 << 10

var encodeBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, encodeBuffer)
	return &b
}}

// EncodeTo writes the entry's file content to w, in writes of about 32 KiB and
// without a copy of the body.
func (d Delivery) EncodeTo(w io.Writer) error {
	return d.EncodeChunksTo(w, [][]byte{d.Body})
}

// EncodeChunksTo is EncodeTo with a body that is the concatenation of chunks;
// d.Body is ignored. It keeps no reference to the chunks.
func (d Delivery) EncodeChunksTo(w io.Writer, chunks [][]byte) error {
	d.V = version
	d.Body = nil
	head, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode delivery %s: %w", d.ID, err)
	}
	head, ok := bytes.CutSuffix(head, []byte(nullBody))
	if !ok {
		return fmt.Errorf("encode delivery %s: the body is not the last member", d.ID)
	}
	pooled := encodeBuffers.Get().(*[]byte)
	defer encodeBuffers.Put(pooled)
	enc := encoder{w: w, out: (*pooled)[:0]}
	enc.raw(head)
	enc.raw([]byte(bodyMember))
	for _, c := range chunks {
		enc.base64(c)
	}
	enc.finishBase64()
	enc.raw([]byte(entryEnd))
	enc.flush()
	if enc.err != nil {
		return fmt.Errorf("write delivery %s: %w", d.ID, enc.err)
	}
	return nil
}

// encoder gathers output in a fixed buffer and carries the up to two bytes that
// do not fill a base64 group from one chunk to the next.
type encoder struct {
	w      io.Writer
	out    []byte
	carry  [3]byte
	ncarry int
	err    error
}

func (e *encoder) flush() {
	if e.err == nil && len(e.out) > 0 {
		_, e.err = e.w.Write(e.out)
	}
	e.out = e.out[:0]
}

// room makes at least n bytes available; n is never more than the buffer.
func (e *encoder) room(n int) {
	if cap(e.out)-len(e.out) < n {
		e.flush()
	}
}

func (e *encoder) raw(b []byte) {
	for len(b) > 0 && e.err == nil {
		e.room(min(len(b), cap(e.out)))
		n := min(len(b), cap(e.out)-len(e.out))
		e.out = append(e.out, b[:n]...)
		b = b[n:]
	}
}

func (e *encoder) base64(b []byte) {
	for e.ncarry > 0 && len(b) > 0 {
		e.carry[e.ncarry] = b[0]
		e.ncarry++
		b = b[1:]
		if e.ncarry == len(e.carry) {
			e.groups(e.carry[:])
			e.ncarry = 0
		}
	}
	whole := len(b) - len(b)%3
	e.groups(b[:whole])
	// Either the carry is empty here, or b ran out in filling it.
	e.ncarry += copy(e.carry[e.ncarry:], b[whole:])
}

// groups encodes b, whose length is a multiple of three.
func (e *encoder) groups(b []byte) {
	for len(b) > 0 && e.err == nil {
		e.room(4)
		n := min(len(b), (cap(e.out)-len(e.out))/4*3)
		e.out = base64.StdEncoding.AppendEncode(e.out, b[:n])
		b = b[n:]
	}
}

func (e *encoder) finishBase64() {
	e.room(4)
	e.out = base64.StdEncoding.AppendEncode(e.out, e.carry[:e.ncarry])
	e.ncarry = 0
}

// Decode reads an entry's file content. An error means that the entry can never
// be read and belongs in quarantine. The result shares no memory with b.
func Decode(b []byte) (Delivery, error) {
	d, ok := decodeOwn(b)
	if !ok {
		d = Delivery{}
		if err := json.Unmarshal(b, &d); err != nil {
			return Delivery{}, fmt.Errorf("decode delivery: %w", err)
		}
	}
	if d.V != version {
		return Delivery{}, fmt.Errorf("decode delivery: version %d is not known to this binary (it knows %d)", d.V, version)
	}
	if !names.DeliveryID(d.ID) {
		return Delivery{}, fmt.Errorf("decode delivery: %q is not a delivery ID", d.ID)
	}
	if len(d.Salt) != saltSize {
		return Delivery{}, fmt.Errorf("decode delivery: the salt has %d bytes, and not %d", len(d.Salt), saltSize)
	}
	return d, nil
}

// decodeOwn reads the form that EncodeTo writes. It says false for everything
// else, broken or not, and never accepts what encoding/json would read differently.
func decodeOwn(b []byte) (Delivery, bool) {
	// Quotes within JSON strings are escaped, so the first match is a member.
	head, rest, found := bytes.Cut(b, []byte(bodyMember))
	if !found {
		return Delivery{}, false
	}
	encoded, ok := bytes.CutSuffix(bytes.TrimRight(rest, "\n"), []byte(entryEnd))
	// The base64 decoder skips line breaks, which a JSON string cannot hold.
	if !ok || bytes.IndexByte(encoded, '\n') >= 0 || bytes.IndexByte(encoded, '\r') >= 0 {
		return Delivery{}, false
	}
	var d Delivery
	if json.Unmarshal(append(bytes.Clone(head), '}'), &d) != nil {
		return Delivery{}, false
	}
	body := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Decode(body, encoded)
	if err != nil {
		return Delivery{}, false
	}
	d.Body = body[:n]
	return d, true
}

// headLimit is far above what there is before the body of an entry.
const headLimit = 64 << 10

// BodyOf reads the body of an entry as it comes from its file, so that the rest of a
// large one need not be read. It is false for a form that EncodeTo does not write.
func BodyOf(entry io.Reader) (io.Reader, bool) {
	in := bufio.NewReaderSize(entry, headLimit)
	head, _ := in.Peek(headLimit) // of a small one this is all
	at := bytes.Index(head, []byte(bodyMember))
	if at < 0 {
		return nil, false
	}
	_, _ = in.Discard(at + len(bodyMember)) // they are in the buffer
	return base64.NewDecoder(base64.StdEncoding, in), true
}
