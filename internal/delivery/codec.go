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

var encodeBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, encodeBuffer) }}

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
	out := encodeBuffers.Get().(*bufio.Writer)
	defer encodeBuffers.Put(out)
	defer out.Reset(nil) // it keeps neither w nor an error
	out.Reset(w)
	// After a failed write a bufio.Writer writes nothing, and Flush returns the error.
	_, _ = out.Write(head)
	_, _ = out.WriteString(bodyMember)
	encoded := base64.NewEncoder(base64.StdEncoding, out)
	for _, c := range chunks {
		_, _ = encoded.Write(c)
	}
	_ = encoded.Close()
	_, _ = out.WriteString(entryEnd)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write delivery %s: %w", d.ID, err)
	}
	return nil
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
