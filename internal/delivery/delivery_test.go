package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func anyDelivery(t *rapid.T) Delivery {
	text := rapid.StringMatching(`[ -~]{0,40}|[\x00-\x{2fff}]{0,10}`)
	return Delivery{
		V:           version,
		ID:          rapid.StringMatching(`[A-Za-z0-9-]{1,64}`).Draw(t, "id"),
		Event:       text.Draw(t, "event"),
		HookID:      text.Draw(t, "hook"),
		ContentType: rapid.SampledFrom([]string{"", "application/json", `x,"body":"y`, `","body":"`}).Draw(t, "type"),
		ReceivedAt:  time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "s"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns")).UTC(),
		RemoteAddr:  text.Draw(t, "addr"),
		Source:      rapid.SampledFrom([]string{"github", "cli", "recovery"}).Draw(t, "source"),
		Actor:       text.Draw(t, "actor"),
		Deployment:  text.Draw(t, "deployment"),
		Forced:      rapid.Bool().Draw(t, "forced"),
		Salt:        rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "salt"),
		Body:        rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "body"),
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDelivery(t)
		b, err := encode(d)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(b) {
			t.Fatalf("not JSON: %s", b)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, d) {
			t.Fatalf("got %+v\nwant %+v", got, d)
		}
		// Anybody's JSON parser must see the same.
		var plain Delivery
		if err := json.Unmarshal(b, &plain); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plain, d) {
			t.Fatalf("encoding/json reads %+v\nwant %+v", plain, d)
		}
		if _, fast := decodeOwn(b); !fast {
			t.Fatalf("own form was not recognised: %s", b)
		}
	})
}

func TestBodyOf_GivesTheBodyAsDecodeDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDelivery(t)
		raw, err := encode(d)
		if err != nil {
			t.Fatal(err)
		}
		body, ok := BodyOf(bytes.NewReader(raw))
		if !ok {
			t.Fatalf("no body in %q", raw)
		}
		got := make([]byte, len(d.Body))
		if _, err := io.ReadFull(body, got); err != nil || !bytes.Equal(got, d.Body) {
			t.Fatalf("%q, %v; want %q", got, err, d.Body)
		}
	})
}

// However a body is cut into chunks, the file is the same.
func TestChunksMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDelivery(t)
		// Around the multiples of what one buffer holds is where it goes wrong.
		size := rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(encodeBuffer/4*3-600, encodeBuffer/4*3+20), rapid.IntRange(0, 3*encodeBuffer)).Draw(t, "size")
		d.Body = bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
		var chunks [][]byte
		for rest := d.Body; len(rest) > 0; {
			n := rapid.OneOf(rapid.IntRange(0, min(5, len(rest))), rapid.IntRange(0, len(rest))).Draw(t, "n")
			chunks = append(chunks, rest[:n])
			rest = rest[n:]
		}
		whole, err := encode(d)
		if err != nil {
			t.Fatal(err)
		}
		var cut bytes.Buffer
		if err := d.EncodeChunksTo(&cut, chunks); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(cut.Bytes(), whole) {
			t.Fatal("chunks were encoded differently")
		}
		got, err := Decode(whole)
		if err != nil || !bytes.Equal(got.Body, d.Body) {
			t.Fatalf("%v; body of %d bytes came back as %d", err, len(d.Body), len(got.Body))
		}
	})
}

// writeLog keeps the sizes of the writes and fails the one that is told.
type writeLog struct {
	sizes  []int
	failAt int
}

var errDisk = errors.New("no space left")

func (w *writeLog) Write(b []byte) (int, error) {
	if len(w.sizes) == w.failAt {
		return 0, errDisk
	}
	w.sizes = append(w.sizes, len(b))
	return len(b), nil
}

func TestEncode_OrdinaryPushIsOneWrite(t *testing.T) {
	w := &writeLog{failAt: -1}
	if err := (Delivery{ID: "a", Salt: NewSalt(), Body: make([]byte, 8<<10)}).EncodeTo(w); err != nil {
		t.Fatal(err)
	}
	if len(w.sizes) != 1 {
		t.Errorf("writes of %v bytes", w.sizes)
	}
}

func TestEncodeStopsAtTheFirstFailedWrite(t *testing.T) {
	for failAt := range 4 {
		w := &writeLog{failAt: failAt}
		err := Delivery{ID: "a", Body: make([]byte, 100<<10)}.EncodeTo(w)
		if !errors.Is(err, errDisk) {
			t.Errorf("write %d failed, and EncodeTo says %v", failAt, err)
		}
		if len(w.sizes) != failAt {
			t.Errorf("write %d failed, and %d writes were made", failAt, len(w.sizes))
		}
	}
}

func TestDelivery_LargestBody(t *testing.T) {
	d := Delivery{ID: "a", Source: "github", Salt: NewSalt(), Body: bytes.Repeat([]byte{0xff, 0, '"', '\n'}, MaxBody/4)}
	b, err := encode(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || got.Digest() != d.Digest() {
		t.Fatalf("%v; digest %s, want %s", err, got.Digest(), d.Digest())
	}
}

func TestDecodeAcceptsOtherJSON(t *testing.T) {
	for name, in := range map[string]string{
		"other order":   `{"body":"aGk=","v":1,"delivery_id":"a","salt":"AAAAAAAAAAAAAAAAAAAAAA=="}`,
		"spaces":        `{ "v": 1, "delivery_id": "a", "salt":"AAAAAAAAAAAAAAAAAAAAAA==", "body": "aGk=" }`,
		"newline after": `{"v":1,"delivery_id":"a","salt":"AAAAAAAAAAAAAAAAAAAAAA==","body":"aGk="}` + "\n",
		"more members":  `{"v":1,"delivery_id":"a","salt":"AAAAAAAAAAAAAAAAAAAAAA==","body":"aGk=","later":{"body":"x"}}`,
		"escapes":       `{"v":1,"delivery_id":"a","salt":"AAAAAAAAAAAAAAAAAAAAAA==","body":"aG\u006b="}`,
	} {
		d, err := Decode([]byte(in))
		if err != nil || string(d.Body) != "hi" || d.ID != "a" {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"nothing":      {``, "decode delivery"},
		"an array":     {`[]`, "decode delivery"},
		"half":         {`{"v":1,"delivery_id":"a","body":"aGk`, "decode delivery"},
		"half base64":  {`{"v":1,"delivery_id":"a","body":"aGk"}`, "decode delivery"},
		"line break":   {"{\"v\":1,\"delivery_id\":\"a\",\"body\":\"aG\nk=\"}", "decode delivery"},
		"later":        {`{"v":2,"delivery_id":"a","body":""}`, "version 2"},
		"no version":   {`{"delivery_id":"a","body":""}`, "version 0"},
		"no ID":        {`{"v":1,"body":""}`, "not a delivery ID"},
		"path as ID":   {`{"v":1,"delivery_id":"../x","body":""}`, "not a delivery ID"},
		"control code": {`{"v":1,"delivery_id":"a\n","body":""}`, "not a delivery ID"},
		"no salt":      {`{"v":1,"delivery_id":"a","body":"aGk="}`, "the salt has 0 bytes, and not 16"},
		"body in salt": {`{"v":1,"delivery_id":"a","salt":"AAAAAAAAAAAAAAAAAAAAAGhp","body":""}`, "the salt has 18 bytes, and not 16"},
	} {
		_, err := Decode([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode checks that nothing panics, that the fast path reads what encoding/json
// reads, and that what was read can be written and read again.
func FuzzDecode(f *testing.F) {
	own, err := encode(Delivery{ID: "a-1", Event: "push", Source: "github", Salt: make([]byte, 16), Body: []byte(`{"ref":"x"}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	for _, s := range []string{
		``, `{}`, `[]`, `{"v":1,"delivery_id":"a","body":null}`, `{,"body":""}`, `{"v":1,"delivery_id":"a","body":"aGk="}`,
		`{"a":{"v":1,"body":"aGk="}`, `{"v":1,"delivery_id":"a","body":"aGk=","body":"aG8="}`, `{"v":1,"delivery_id":"a","BODY":"aGk=","body":""}`,
		`[{"v":1,"delivery_id":"a","body":"aGk="}`, `{"v":1},"body":""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := Decode(in)
		if err != nil {
			return
		}
		var plain Delivery
		if err := json.Unmarshal(in, &plain); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		if d.Digest() != plain.Digest() || !bytes.Equal(d.Salt, plain.Salt) {
			t.Fatal("encoding/json reads another body")
		}
		if !reflect.DeepEqual(d, plain) {
			t.Fatalf("%+v\nencoding/json reads %+v", d, plain)
		}
		out, err := encode(d)
		if err != nil {
			return // a year that JSON's time format does not know
		}
		again, err := Decode(out)
		if err != nil || again.Digest() != d.Digest() || again.ID != d.ID {
			t.Fatalf("second reading: %v", err)
		}
	})
}

func BenchmarkDecode25MiB(b *testing.B) {
	in, err := encode(Delivery{ID: "a", Body: make([]byte, MaxBody)})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(MaxBody)
	for b.Loop() {
		if _, err := Decode(in); err != nil {
			b.Fatal(err)
		}
	}
}

func encode(d Delivery) ([]byte, error) {
	var b bytes.Buffer
	err := d.EncodeTo(&b)
	return b.Bytes(), err
}
