package webhook

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

var pushBody = []byte(`{"ref":"refs/heads/main","after":"0123"}`)

// without, with and also return a changed copy of a header.
func without(h http.Header, key string) http.Header { h = h.Clone(); delete(h, key); return h }
func with(h http.Header, key, value string) http.Header {
	h = h.Clone()
	h[key] = []string{value}
	return h
}
func also(h http.Header, key, value string) http.Header {
	h = h.Clone()
	h[key] = append(h[key], value)
	return h
}

func TestAnswers(t *testing.T) {
	f := start(t, Limits{}, nil)
	good := push("a-1", pushBody)
	good256 := sign(secret, pushBody)
	const (
		sig   = "X-Hub-Signature-256"
		id    = "X-Github-Delivery"
		event = "X-Github-Event"
		ctype = "Content-Type"
		form  = "application/x-www-form-urlencoded"
	)
	signed := func(h http.Header, body string) http.Header { return with(h, sig, sign(secret, []byte(body))) }
	for _, c := range []struct {
		name, method, path string
		header             http.Header
		body               string
		status             int
		reason             string
	}{
		{name: "a push", header: good, status: 202},
		{name: "upper case hex", header: with(good, sig, "sha256="+strings.ToUpper(good256[7:])), status: 202},
		{name: "both signatures", header: with(good, "X-Hub-Signature", signSHA1(secret, pushBody)), status: 202},
		{name: "charset", header: with(good, ctype, "application/json; charset=utf-8"), status: 202},
		{name: "odd parameters", header: with(good, ctype, "Application/JSON; charset"), status: 202},
		{name: "no hook", header: without(good, "X-Github-Hook-Id"), status: 202},
		{name: "longest ID", header: with(good, id, strings.Repeat("a", 64)), status: 202},
		{name: "longest event", header: with(good, event, strings.Repeat("e", 64)), status: 202},
		{name: "not JSON at all", header: signed(good, "\xff\x00{"), body: "\xff\x00{", status: 202},
		{name: "form", header: signed(with(good, ctype, form), "payload=%7B%7D"), body: "payload=%7B%7D", status: 202},
		{name: "form, later field", header: signed(with(good, ctype, form), "a=1&p%61yload=x"), body: "a=1&p%61yload=x", status: 202},
		{name: "query is ignored", path: pathWebhook + "?token=x", header: good, status: 202},

		{name: "GET", method: "GET", header: good, status: 405, reason: "method_not_allowed"},
		{name: "PUT", method: "PUT", header: good, body: string(pushBody), status: 405, reason: "method_not_allowed"},
		{name: "OPTIONS", method: "OPTIONS", header: good, status: 405, reason: "method_not_allowed"},
		{name: "odd method", method: "BREW", header: good, status: 405, reason: "method_not_allowed"},

		{name: "unsigned", header: without(good, sig), status: 401, reason: "signature_missing"},
		{name: "SHA-1 only", header: with(without(good, sig), "X-Hub-Signature", signSHA1(secret, pushBody)), status: 401, reason: "signature_sha1_only"},
		{name: "SHA-1 in its place", header: with(good, sig, signSHA1(secret, pushBody)), status: 401, reason: "signature_malformed"},
		{name: "empty signature", header: with(good, sig, ""), status: 401, reason: "signature_malformed"},
		{name: "prefix only", header: with(good, sig, "sha256="), status: 401, reason: "signature_malformed"},
		{name: "short", header: with(good, sig, good256[:len(good256)-2]), status: 401, reason: "signature_malformed"},
		{name: "long", header: with(good, sig, good256+"00"), status: 401, reason: "signature_malformed"},
		{name: "not hex", header: with(good, sig, "sha256="+strings.Repeat("zz", 32)), status: 401, reason: "signature_malformed"},
		{name: "no prefix", header: with(good, sig, good256[7:]), status: 401, reason: "signature_malformed"},
		{name: "twice the same", header: also(good, sig, good256), status: 401, reason: "signature_repeated"},
		{name: "one good of two", header: also(with(good, sig, "sha256="+strings.Repeat("00", 32)), sig, good256), status: 401, reason: "signature_repeated"},
		{name: "other secret", header: with(good, sig, sign([]byte("other"), pushBody)), status: 401, reason: "signature_mismatch"},
		{name: "empty secret", header: with(good, sig, sign(nil, pushBody)), status: 401, reason: "signature_mismatch"},
		{name: "other body", header: good, body: string(pushBody) + " ", status: 401, reason: "signature_mismatch"},
		{name: "one bit off", header: with(good, sig, flipLast(good256)), status: 401, reason: "signature_mismatch"},

		// The signature comes before everything that the sender wrote.
		{name: "unsigned and wrong", header: with(without(without(good, sig), id), ctype, "text/plain"), status: 401, reason: "signature_missing"},
		{name: "badly signed and wrong", header: with(without(with(good, sig, flipLast(good256)), id), ctype, "text/plain"), status: 401, reason: "signature_mismatch"},

		{name: "no ID", header: without(good, id), status: 400, reason: "delivery_id_invalid"},
		{name: "empty ID", header: with(good, id, ""), status: 400, reason: "delivery_id_invalid"},
		{name: "long ID", header: with(good, id, strings.Repeat("a", 65)), status: 400, reason: "delivery_id_invalid"},
		{name: "path as ID", header: with(good, id, "../../etc/passwd"), status: 400, reason: "delivery_id_invalid"},
		{name: "underscore in ID", header: with(good, id, "a_b"), status: 400, reason: "delivery_id_invalid"},
		{name: "two IDs", header: also(good, id, "a-2"), status: 400, reason: "delivery_id_invalid"},
		{name: "no event", header: without(good, event), status: 400, reason: "event_invalid"},
		{name: "empty event", header: with(good, event, ""), status: 400, reason: "event_invalid"},
		{name: "long event", header: with(good, event, strings.Repeat("e", 65)), status: 400, reason: "event_invalid"},
		{name: "event with a space", header: with(good, event, "pu sh"), status: 400, reason: "event_invalid"},
		{name: "event not ASCII", header: with(good, event, "p\xc3\xbcsh"), status: 400, reason: "event_invalid"},
		{name: "two events", header: also(good, event, "ping"), status: 400, reason: "event_invalid"},
		{name: "form without payload", header: signed(with(good, ctype, form), "payload"), body: "payload", status: 400, reason: "payload_missing"},
		{name: "JSON sent as form", header: with(good, ctype, form), status: 400, reason: "payload_missing"},

		{name: "no content type", header: without(good, ctype), status: 415, reason: "content_type_unsupported"},
		{name: "text", header: with(good, ctype, "text/plain"), status: 415, reason: "content_type_unsupported"},
		{name: "two content types", header: also(good, ctype, "application/json"), status: 415, reason: "content_type_unsupported"},
		{name: "broken content type", header: with(good, ctype, "application/json/x"), status: 415, reason: "content_type_unsupported"},

		{name: "elsewhere", path: "/github-webhook/", header: good, status: 404, reason: "no_such_path"},
		{name: "parent", path: "/x/../github-webhook", header: good, status: 404, reason: "no_such_path"},
		{name: "post to the status", path: "/", header: good, status: 405, reason: "method_not_allowed"},
		{name: "post to the health", path: "/healthz", header: good, status: 405, reason: "method_not_allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			method, path, body := c.method, c.path, []byte(c.body)
			if method == "" {
				method = http.MethodPost
			}
			if path == "" {
				path = pathWebhook
			}
			if c.body == "" && method == http.MethodPost {
				body = pushBody
			}
			r := f.send(method, path, c.header, bytes.NewReader(body))
			if r.status != c.status {
				t.Fatalf("status %d, want %d: %s", r.status, c.status, r.body)
			}
			if got, _ := r.json["reason"].(string); got != c.reason {
				t.Errorf("reason %q, want %q", got, c.reason)
			}
			if ct := r.header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %q", ct)
			}
			entries := f.entries()
			if c.status != http.StatusAccepted {
				if len(entries) != 0 {
					t.Fatalf("a refused request left something behind: %+v", entries)
				}
				if m, _ := r.json["message"].(string); m == "" || r.json["error"] == "" {
					t.Errorf("nothing says what to do: %s", r.body)
				}
				if c.status == http.StatusMethodNotAllowed && r.header.Get("Allow") == "" {
					t.Error("405 without Allow")
				}
				return
			}
			if len(entries) != 1 {
				t.Fatalf("%d entries", len(entries))
			}
			e := entries[0]
			if want := c.header[id][0]; e.ID != want || r.json["delivery_id"] != want || r.json["status"] != "queued" {
				t.Errorf("entry %s, answer %s, want %s", e.ID, r.body, want)
			}
			if !bytes.Equal(e.Body, body) {
				t.Errorf("stored %q, sent %q", e.Body, body)
			}
			if e.Event != c.header[event][0] || e.Source != "github" || len(e.Salt) != 16 || e.RemoteAddr != "127.0.0.1" ||
				time.Since(e.ReceivedAt) > time.Hour || e.ContentType != c.header[ctype][0] {
				t.Errorf("%+v", e)
			}
			f.empty()
		})
	}
}

func flipLast(signature string) string {
	last := signature[len(signature)-1]
	other := byte('0')
	if last == '0' {
		other = '1'
	}
	return signature[:len(signature)-1] + string(other)
}

func (f *fixture) empty() {
	f.t.Helper()
	list, err := f.queue.List()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range list {
		if err := f.queue.Remove(e); err != nil {
			f.t.Fatal(err)
		}
	}
}

func TestPages(t *testing.T) {
	f := start(t, Limits{}, func(o *Options) { o.Instance, o.Service, o.Version = "prod", "deployer", "v1.2.3" })
	for _, path := range []string{"/", "/healthz"} {
		get, head := f.send("GET", path, nil, nil), f.send("HEAD", path, nil, nil)
		if get.status != 200 || get.json["status"] != "ok" {
			t.Errorf("GET %s: %d %s", path, get.status, get.body)
		}
		if head.status != 200 || len(head.body) != 0 || head.header.Get("Content-Length") != fmt.Sprint(len(get.body)) {
			t.Errorf("HEAD %s: %d %q %v", path, head.status, head.body, head.header)
		}
	}
	r := f.send("GET", "/", nil, nil)
	if r.json["service"] != "deployer" || r.json["instance"] != "prod" || r.json["message"] == "" || r.json["version"] != "v1.2.3" {
		t.Errorf("%s", r.body)
	}
}

func TestSecretsAreRequired(t *testing.T) {
	f := start(t, Limits{}, nil)
	for name, secrets := range map[string][][]byte{
		"none": nil, "empty list": {}, "empty": {{}}, "one empty": {secret, nil},
	} {
		_, err := NewHandler(Options{Secrets: secrets, Queue: f.queue, Log: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, ErrNoSecret) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), string(secret)) {
			t.Errorf("%s: the error tells a secret", name)
		}
	}
	if _, err := NewHandler(Options{Secrets: [][]byte{secret}}); err == nil {
		t.Error("no queue was accepted")
	}
}

func TestRotation(t *testing.T) {
	all := [][]byte{[]byte("new"), []byte("old"), []byte("oldest")}
	f := start(t, Limits{}, func(o *Options) { o.Secrets = all })
	all[0] = []byte("changed") // the handler has copies
	for i, s := range []string{"new", "old", "oldest"} {
		r := f.post(with(push("a", pushBody), "X-Hub-Signature-256", sign([]byte(s), pushBody)), pushBody)
		if r.status != 202 || len(f.entries()) != i+1 {
			t.Errorf("%s: %d %s", s, r.status, r.body)
		}
	}
	for _, s := range []string{"changed", "newold", "ne", ""} {
		if r := f.post(with(push("a", pushBody), "X-Hub-Signature-256", sign([]byte(s), pushBody)), pushBody); r.status != 401 {
			t.Errorf("%q: %d", s, r.status)
		}
	}
}

func TestSizes(t *testing.T) {
	f := start(t, Limits{}, nil)
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 2 * chunkSize, medium, medium + 1, delivery.MaxBody} {
		for _, chunked := range []bool{false, true} {
			body := bytes.Repeat([]byte("0123456789abcdef\xff"), size/17+1)[:size]
			var r io.Reader = bytes.NewReader(body)
			if chunked {
				r = io.MultiReader(r) // hides the length
			}
			if got := f.send("POST", pathWebhook, push("a", body), r); got.status != 202 {
				t.Fatalf("%d bytes, chunked %v: %d %s", size, chunked, got.status, got.body)
			}
			if e := f.entries(); len(e) != 1 || !bytes.Equal(e[0].Body, body) {
				t.Fatalf("%d bytes, chunked %v: not stored as it was sent", size, chunked)
			}
			f.empty()
		}
	}
	// One byte too many without a length is seen when it comes.
	body := make([]byte, delivery.MaxBody+1)
	if got := f.send("POST", pathWebhook, push("a", body), io.MultiReader(bytes.NewReader(body))); got.status != 413 || len(f.entries()) != 0 {
		t.Errorf("chunked, too large: %d %s", got.status, got.body)
	}
	// With a length it is refused before any of it is sent, whatever else is wrong.
	for _, signature := range []string{"X-Hub-Signature-256: " + sign(secret, body), "X-None: 1"} {
		got := f.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: %d\r\n\r\n", pathWebhook, signature, delivery.MaxBody+1))
		if got.status != 413 || got.json["reason"] != "body_too_large" {
			t.Errorf("declared too large: %d %s", got.status, got.body)
		}
	}
}

// raw sends text on a connection of its own and reads one answer, while the
// sending side stays open.
func (f *fixture) raw(text string) reply {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		f.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		f.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	return f.read(resp)
}

// What is unsigned is answered before its body has come, so it costs nothing.
func TestUnsignedIsRefusedBeforeItsBody(t *testing.T) {
	f := start(t, Limits{}, nil)
	for _, head := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
		r := f.raw("POST " + pathWebhook + " HTTP/1.1\r\nHost: x\r\n" + head + "\r\n\r\n")
		if r.status != 401 {
			t.Errorf("%s: %d", head, r.status)
		}
	}
}

// A body that ends early, or is not the HTTP that it says it is, leaves nothing.
func TestBrokenBodies(t *testing.T) {
	f := start(t, Limits{}, nil)
	head := "POST " + pathWebhook + " HTTP/1.1\r\nHost: x\r\nX-GitHub-Delivery: a\r\nX-GitHub-Event: push\r\nContent-Type: application/json\r\nX-Hub-Signature-256: " + sign(secret, pushBody) + "\r\n"
	if r := f.raw(head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"); r.status != 400 || r.json["reason"] != "body_incomplete" {
		t.Errorf("broken chunks: %d %s", r.status, r.body)
	}
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", head, len(pushBody)+1, pushBody)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(limit))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection was not ended: %v", err)
	}
	if e := f.entries(); len(e) != 0 {
		t.Errorf("left behind: %+v", e)
	}
}
