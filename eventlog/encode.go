package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxActor bounds the actor, in bytes: it is text from outside and not part of
// an identity, so a longer one is cut and not refused.
const maxActor = 255

// row is a transition in the form in which it is stored. Its strings are valid
// UTF-8 without NUL, which Postgres text cannot hold.
type row struct {
	identity
	actor string
	data  []byte
	// bodies are the digests that a received or redelivered names, or that a
	// redacted deletes.
	bodies []string
}

// identity is what makes a transition the same transition.
type identity struct {
	deliveryID string
	instance   string
	typ        Type
	deployment string // "" is stored as null
	attempt    int
}

func encodeTransition(t Transition) (row, error) {
	if t.Data == nil {
		return row{}, fmt.Errorf("transition of delivery %q has no data", t.DeliveryID)
	}
	data, err := Encode(t.Data)
	if err != nil {
		return row{}, fmt.Errorf("transition of delivery %q: %w", t.DeliveryID, err)
	}
	return row{
		identity: identity{
			deliveryID: clean(t.DeliveryID), instance: clean(t.Instance), typ: t.Data.EventType(),
			deployment: clean(t.Deployment), attempt: t.Attempt,
		},
		actor:  cut(clean(t.Actor), maxActor),
		data:   data,
		bodies: bodiesOf(t.Data),
	}, nil
}

// bodiesOf lists the digests of bodies that the data names.
func bodiesOf(data Data) []string {
	digest := ""
	switch d := data.(type) {
	case Received:
		digest = d.PayloadDigest
	case Redelivered:
		digest = d.PayloadDigest
	case Redacted:
		return d.PayloadDigests
	}
	if digest == "" {
		return nil
	}
	return []string{digest}
}

// cleanLikeJSON is clean of what encoding/json makes of s, so that a column and
// a key of the data that hold the same text are the same.
func cleanLikeJSON(s string) string { return clean(string([]rune(s))) }

// clean replaces what a text column cannot hold.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// sameJSON says whether two encodings hold the same content. Bytes are compared
// first; a difference there may still be mere spelling, because another version
// of the binary may order or escape the same fields differently. Numbers are
// compared as they are written.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := decodeAny(a)
	y, errY := decodeAny(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func decodeAny(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// SaltSize is the length of a body's salt in bytes. Were it not fixed, a body could be
// taken into its salt, and the digest would stay as it is.
const SaltSize = 16

// check refuses a payload that is not what its digest says.
func (p *Payload) check() error {
	if len(p.Salt) != SaltSize {
		return fmt.Errorf("the salt of its body has %d bytes, and not %d", len(p.Salt), SaltSize)
	}
	h := sha256.New()
	h.Write(p.Salt)
	h.Write(p.Body)
	if hex.EncodeToString(h.Sum(nil)) != p.Digest {
		return errors.New("its body or its salt was changed: they do not give the digest that the event names")
	}
	return nil
}
