package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// chunkSize is the piece in which bodies are held. Pieces of one size can be used
// again for any body, and a body takes only what has come in, whatever its
// Content-Length promised. 24 KiB holds an ordinary push and is a multiple of
// three, so a full piece is 32 KiB of base64 without a remainder.
const chunkSize = 24 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

var errTooLarge = errors.New("the body is larger than 25 MiB")

// body is a request's body in pooled pieces. Its owner must release it, and must
// not use the pieces after that.
type body struct {
	chunks [][]byte
	size   int64
}

// readFrom reads r to its end, shows what comes to check, and stays within what
// the lease allows.
func (b *body) readFrom(ctx context.Context, r io.Reader, lease *lease, check *signer) error {
	for {
		last := len(b.chunks) - 1
		if last < 0 || len(b.chunks[last]) == chunkSize {
			if err := lease.grow(ctx, b.size); err != nil {
				return err
			}
			b.chunks = append(b.chunks, chunks.Get().(*[chunkSize]byte)[:0])
			last++
		}
		c := b.chunks[last]
		if err := lease.read(); err != nil {
			return err
		}
		n, err := r.Read(c[len(c):chunkSize])
		lease.got(n)
		check.write(c[len(c) : len(c)+n])
		b.chunks[last] = c[:len(c)+n]
		b.size += int64(n)
		if b.size > delivery.MaxBody {
			return errTooLarge
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the body after %d bytes: %w", b.size, err)
		}
	}
}

func (b *body) release() {
	for _, c := range b.chunks {
		chunks.Put((*[chunkSize]byte)(c[:chunkSize]))
	}
	b.chunks = nil
}

// payloadField is the form field in which GitHub sends the JSON.
const payloadField = "payload"

// hasPayloadField says whether the form body that the chunks make up has a field
// named payload, however its name is percent-encoded. It keeps no more of the
// body than a name.
func hasPayloadField(chunks [][]byte) bool {
	name := make([]byte, 0, 3*len(payloadField))
	inName, tooLong := true, false
	for _, c := range chunks {
		for len(c) > 0 {
			if !inName {
				next := bytes.IndexByte(c, '&')
				if next < 0 {
					break
				}
				c, inName = c[next+1:], true
				continue
			}
			end := bytes.IndexAny(c, "=&")
			part := c
			if end >= 0 {
				part = c[:end]
			}
			if len(name)+len(part) > cap(name) {
				tooLong = true
			} else {
				name = append(name, part...)
			}
			if end < 0 {
				break
			}
			if c[end] == '=' {
				if !tooLong && isPayload(name) {
					return true
				}
				inName = false
			}
			c, name, tooLong = c[end+1:], name[:0], false
		}
	}
	return false
}

func isPayload(name []byte) bool {
	s, err := url.QueryUnescape(string(name))
	return err == nil && s == payloadField
}
