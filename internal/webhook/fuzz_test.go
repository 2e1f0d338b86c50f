package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// memoryQueue keeps what was put, so that a fuzzer is not held up by fsync.
type memoryQueue struct {
	ids  []string
	data []*bytes.Buffer
}

func (q *memoryQueue) Put(_ context.Context, id string, write func(io.Writer) error) (queue.Entry, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return queue.Entry{}, err
	}
	q.ids, q.data = append(q.ids, id), append(q.data, &b)
	return queue.Entry{Name: "x_" + id + ".json", DeliveryID: id}, nil
}

// FuzzHandler checks that no request panics, that 202 is for a valid signature
// only and then leaves exactly one entry with the body as it was sent, and that
// anything else leaves none.
func FuzzHandler(f *testing.F) {
	const form = "application/x-www-form-urlencoded"
	f.Add("POST", "/github-webhook", "a-1", "push", "application/json", "", "", []byte(`{}`), true, true)
	f.Add("POST", "/github-webhook", "a-1", "push", form, "", "", []byte("payload=%7B%7D"), true, false)
	f.Add("POST", "/github-webhook", "a-1", "push", form, "", "", []byte("a=1&pay"), true, true)
	f.Add("POST", "/github-webhook", "a-1", "push", "application/json", "sha256=00", "sha1=00", []byte("{}"), false, true)
	f.Add("POST", "/github-webhook", "../x", "pu\nsh", "text/plain;=", sign(nil, []byte("{}")), "1.1.1.1, ,", []byte("{}"), false, true)
	f.Add("HEAD", "/", "", "", "", "", "", []byte{}, false, false)
	f.Add("GET", "/healthz", "", "", "", "", "\x1b", []byte{0xff}, false, true)
	f.Fuzz(func(t *testing.T, method, path, id, event, contentType, signature, other string, body []byte, valid, length bool) {
		q := &memoryQueue{}
		var log bytes.Buffer
		h, err := NewHandler(Options{
			Secrets: [][]byte{[]byte("old"), secret}, Queue: q, ProxyFix: ProxyFix{XFor: 1, XProto: 2},
			Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil {
			t.Fatal(err)
		}
		if valid {
			signature = sign(secret, body)
		}
		r := (&http.Request{
			Method: method, URL: &url.URL{Path: path}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: other,
			Header: http.Header{
				"X-Github-Delivery": {id}, "X-Github-Event": {event}, "Content-Type": {contentType}, "X-Hub-Signature-256": {signature},
				"X-Hub-Signature": {other}, "X-Forwarded-For": {other}, "X-Forwarded-Proto": {other}, "X-Github-Hook-Id": {other},
			},
			Body: io.NopCloser(bytes.NewReader(body)), ContentLength: -1,
		}).WithContext(context.Background())
		if length {
			r.ContentLength = int64(len(body))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)

		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Fatalf("%d log lines: %q", n, log.String())
		}
		for _, c := range log.Bytes() {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Fatalf("the log holds %#x: %q", c, log.String())
			}
		}
		if w.Code != http.StatusAccepted {
			if len(q.data) != 0 {
				t.Fatalf("status %d left %d entries", w.Code, len(q.data))
			}
			return
		}
		good := false
		for _, s := range []string{"old", string(secret)} {
			good = good || hmac.Equal([]byte(strings.ToLower(signature)), []byte(sign([]byte(s), body)))
		}
		if !good || method != http.MethodPost || path != pathWebhook {
			t.Fatalf("accepted %s %q with signature %q", method, path, signature)
		}
		if len(q.data) != 1 || q.ids[0] != id || !names.DeliveryID(id) {
			t.Fatalf("entries for %q, sent %q", q.ids, id)
		}
		d, err := delivery.Decode(q.data[0].Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.Body, body) || d.ID != id || d.Event != event {
			t.Fatalf("stored %+v", d)
		}
	})
}
