package webhook

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestClientAddress(t *testing.T) {
	for name, c := range map[string]struct {
		trusted   int
		forwarded []string
		peer      string
		want      string
	}{
		"none trusted":        {0, []string{"1.1.1.1"}, "9.9.9.9:1", "9.9.9.9"},
		"one of one":          {1, []string{"1.1.1.1"}, "9.9.9.9:1", "1.1.1.1"},
		"one of three":        {1, []string{"3.3.3.3, 2.2.2.2 ,1.1.1.1"}, "9.9.9.9:1", "1.1.1.1"},
		"two of three":        {2, []string{"3.3.3.3, 2.2.2.2 ,1.1.1.1"}, "9.9.9.9:1", "2.2.2.2"},
		"over two lines":      {2, []string{"3.3.3.3, 2.2.2.2", "1.1.1.1"}, "9.9.9.9:1", "2.2.2.2"},
		"more than there are": {3, []string{"2.2.2.2", "1.1.1.1"}, "9.9.9.9:1", "9.9.9.9"},
		"no header":           {1, nil, "9.9.9.9:1", "9.9.9.9"},
		"empty entry":         {1, []string{"1.1.1.1,"}, "9.9.9.9:1", "9.9.9.9"},
		"quoted":              {1, []string{`"1.1.1.1"`}, "9.9.9.9:1", "1.1.1.1"},
		"with a port":         {1, []string{"1.1.1.1:80"}, "9.9.9.9:1", "1.1.1.1"},
		"IPv6":                {1, []string{"2001:db8::1"}, "[::1]:1", "2001:db8::1"},
		"IPv6 with a port":    {1, []string{"[2001:db8::1]:80"}, "[::1]:1", "2001:db8::1"},
		"IPv6 peer":           {0, nil, "[::1]:1", "::1"},
		"not an address":      {1, []string{"<script>"}, "9.9.9.9:1", "9.9.9.9"},
		"control codes":       {1, []string{"fe80::1%\x1b[31m"}, "9.9.9.9:1", `fe80::1%\x1b[31m`},
		"unix socket":         {0, nil, "@", "@"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
		if c.forwarded != nil {
			r.Header["X-Forwarded-For"] = c.forwarded
		}
		if got := clientAddress(r, c.trusted); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestForwardedAddressIsRecorded(t *testing.T) {
	f := start(t, Limits{}, func(o *Options) { o.ProxyFix = ProxyFix{XFor: 1, XProto: 1} })
	h := push("a", pushBody)
	h["X-Forwarded-For"], h["X-Forwarded-Proto"] = []string{"6.6.6.6, 140.82.115.1"}, []string{"https"}
	if r := f.post(h, pushBody); r.status != 202 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if e := f.entries(); len(e) != 1 || e[0].RemoteAddr != "140.82.115.1" {
		t.Errorf("%+v", e)
	}
	if log := f.logged(1); !strings.Contains(log, "client=140.82.115.1") || !strings.Contains(log, "scheme=https") {
		t.Errorf("log: %s", log)
	}
}

func TestPrintable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, limit := rapid.String().Draw(t, "s"), rapid.IntRange(1, 50).Draw(t, "limit")
		got := printable(s, limit)
		for _, c := range []byte(got) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q holds %#x", got, c)
			}
		}
		if len(got) > 10*limit+3 {
			t.Fatalf("%d bytes for a limit of %d", len(got), limit)
		}
	})
	if got := printable("/a b", 10); got != "/a b" {
		t.Errorf("%q", got)
	}
}

// One line a request, from any sender; no body, no signature, no secret.
func TestLogLines(t *testing.T) {
	f := start(t, Limits{}, nil)
	body := []byte(`{"private":"content-of-the-body"}`)
	evil := push("a", body)
	send := []func() reply{
		func() reply { return f.post(push("a-1", body), body) },
		func() reply { return f.post(with(evil, "X-Github-Event", "\xc2\x9b31mred"), body) },
		func() reply { return f.post(with(evil, "X-Github-Delivery", "a\xc2\x9b31m"), body) },
		func() reply { return f.post(without(evil, "X-Hub-Signature-256"), body) },
		func() reply {
			return f.send("GET", "/x%0aforged%1b[31m%c2%9b?token=query-token", nil, nil)
		},
		func() reply { return f.send("GET", "/"+strings.Repeat("long", 1000), nil, nil) },
		func() reply { return f.send("GET", "/healthz", nil, nil) },
	}
	for i, s := range send {
		s()
		f.logged(i + 1)
	}
	log := f.log.String()
	for _, secret := range []string{string(secret), "content-of-the-body", sign(secret, body)[7:], "query-token", "\x1b", "\xc2\x9b", strings.Repeat("long", 100)} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q:\n%s", secret, log)
		}
	}
	for _, want := range []string{"delivery=a-1", "event=push", "status=202", "entry=", "reason=signature_missing", "client=127.0.0.1"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not hold %q:\n%s", want, log)
		}
	}
}

func TestPayloadField(t *testing.T) {
	for body, want := range map[string]bool{
		"payload=": true, "payload=x": true, "a=payload=&b": false, "payload": false, "": false, "&&payload=1": true,
		"xpayload=1": false, "payloadx=1": false, "payload%20=1": false, "%70ayload=1": true, "%70%61%79%6c%6F%61%64=1": true,
		"a&payload=1": true, "a=1;payload=1": false, "%zz=1&payload=1": true, "Payload=1": false, "=payload=1": false,
		strings.Repeat("a", 100) + "&payload=1": true, "payload" + strings.Repeat("a", 100) + "=1": false,
	} {
		// Wherever the pieces happen to be cut, the answer is the same.
		for cut := range len(body) + 1 {
			if got := hasPayloadField([][]byte{[]byte(body[:cut]), []byte(body[cut:])}); got != want {
				t.Errorf("%q cut at %d: %v", body, cut, got)
			}
		}
	}
}

// A field that net/url finds with a value is found here.
func TestPayloadFieldAgreesWithNetURL(t *testing.T) {
	part := rapid.SampledFrom([]string{"payload", "p%61yload", "pay", "load", "=", "&", "a", "%", "+", "%20", "\x00"})
	rapid.Check(t, func(t *rapid.T) {
		body := strings.Join(rapid.SliceOfN(part, 0, 12).Draw(t, "parts"), "")
		values, _ := url.ParseQuery(body)
		var chunks [][]byte
		for rest := []byte(body); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			chunks, rest = append(chunks, rest[:n]), rest[n:]
		}
		found := hasPayloadField(chunks)
		if values.Get("payload") != "" && !found {
			t.Fatalf("%q: not found", body)
		}
		if found && !values.Has("payload") && !bytes.ContainsAny([]byte(body), "%;") {
			t.Fatalf("%q: found, but not by net/url", body)
		}
	})
}
