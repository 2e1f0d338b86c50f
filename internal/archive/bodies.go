package archive

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// owed are the bodies that the events so far name and that have not come yet. Both
// an export and an import compare the bodies of the log with it.
type owed struct {
	// after is the position up to which there are no bodies.
	after  int64
	bodies map[[32]byte]owedBody
}

type owedBody struct {
	position    int64
	size        int64
	contentType string
}

func newOwed(after int64) *owed { return &owed{after, make(map[[32]byte]owedBody)} }

// event notes what an event says of bodies.
func (o *owed) event(e *eventlog.Event) error {
	if e.Type == eventlog.TypeRedacted {
		data, err := e.Decode()
		if err != nil {
			return err
		}
		for _, digest := range data.(eventlog.Redacted).PayloadDigests {
			if key, err := keyOf(digest); err == nil {
				delete(o.bodies, key)
			}
		}
		return nil
	}
	named, ok := eventlog.BodyOf(e)
	if !ok || e.Position <= o.after {
		return nil
	}
	key, err := keyOf(named.Digest)
	if err != nil {
		return fmt.Errorf("position %d: the digest of its body is %q: %w", e.Position, named.Digest, err)
	}
	body := owedBody{e.Position, named.Size, named.ContentType}
	if first, ok := o.bodies[key]; ok {
		if first.size != body.size || first.contentType != body.contentType {
			return fmt.Errorf("position %d: it names the body of position %d with another size or content type", e.Position, first.position)
		}
		return nil
	}
	o.bodies[key] = body
	return nil
}

// body takes a body that came.
func (o *owed) body(p *eventlog.Payload) error {
	key, err := keyOf(p.Digest)
	if err != nil {
		return fmt.Errorf("body %q: %w", p.Digest, err)
	}
	body, ok := o.bodies[key]
	if !ok {
		return fmt.Errorf("body %s: no event names it, or it was redacted", p.Digest)
	}
	delete(o.bodies, key)
	named := eventlog.NamedBody{Digest: p.Digest, Size: body.size, ContentType: body.contentType}
	if err := named.Check(p); err != nil {
		return fmt.Errorf("position %d: %w", body.position, err)
	}
	return nil
}

// rest names the first of those that did not come.
func (o *owed) rest() error {
	missing := int64(0)
	for _, body := range o.bodies {
		if missing == 0 || body.position < missing {
			missing = body.position
		}
	}
	if missing != 0 {
		return fmt.Errorf("position %d: its body is missing, and was not redacted", missing)
	}
	return nil
}

var errDigest = errors.New("it is no SHA-256 in hexadecimal")

func keyOf(digest string) (key [32]byte, err error) {
	if n, err := hex.Decode(key[:], []byte(digest)[:min(len(digest), 64)]); err != nil || n != len(key) || len(digest) != 64 {
		return key, errDigest
	}
	return key, nil
}
