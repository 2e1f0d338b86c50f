package sender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// token is in every URL of the tests, and in no error.
const token = "AAAAAAAAAAAAAAAAAAAAAAAA"

// hosted are services whose address is in the library: every connection to them, and
// nothing else, goes to the server of the tests.
var hosted = struct {
	sync.Mutex
	to string
}{}

func TestMain(m *testing.M) {
	dialer := net.Dialer{}
	http.DefaultTransport = &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			hosted.Lock()
			defer hosted.Unlock()
			return dialer.DialContext(ctx, network, hosted.to)
		},
	}
	os.Exit(testkit.Main(m))
}

// receiver is what a service got.
type receiver struct {
	t      *testing.T
	answer func(http.ResponseWriter)
	got    chan string
	*httptest.Server
}

func newReceiver(t *testing.T, answer string) *receiver {
	r := &receiver{t: t, got: make(chan string, 10), answer: func(w http.ResponseWriter) { io.WriteString(w, answer) }}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.got <- req.Method + " " + req.URL.Path + " " + req.Header.Get("Title") + "\n" + string(body)
		r.answer(w)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) host() string { return strings.TrimPrefix(r.URL, "http://") }

// hostile is what a commit's message may be.
const hostile = "@everyone <!channel> <@U1> **bold** [click](http://evil.example) `code` \x1b[31mred\x1b[0m \u202eturned\r\nBcc: a@evil.example"

func hello() Message {
	m := Message{Title: "web: the deploy failed"}
	m.Say("The deploy of %s failed.", "web")
	m.Quote("Commit 0123456789ab", hostile)
	m.QuoteLines("The last lines:", "one\n\n  @here two `three`\n")
	return m
}

// Text from outside calls nobody, is no link and no heading, and cannot add a header,
// whatever a service makes of text.
func TestSend_EachServiceGetsTextThatIsText(t *testing.T) {
	const plain = "The deploy of web failed.\n" +
		"Commit 0123456789ab @everyone <!channel> <@U1> **bold** [click](http://evil.example) `code` red turned Bcc: a@evil.example\n" +
		"The last lines:\none\n \n@here two `three`"
	const coded = "The deploy of web failed.\n" +
		"Commit 0123456789ab `@\u200beveryone <!channel> <@\u200bU1> **bold** [click](http://evil.example) 'code' red turned Bcc: a@\u200bevil.example`\n" +
		"The last lines:\n`one`\n \n`@\u200bhere two 'three'`"
	text := func(keys ...string) func(string) string {
		return func(body string) string {
			var v any
			if err := json.Unmarshal([]byte(body), &v); err != nil {
				return err.Error()
			}
			var lines []string
			for _, key := range keys {
				at := v
				for _, k := range strings.Split(key, ".") {
					switch x := at.(type) {
					case map[string]any:
						at = x[k]
					case []any:
						if k == "*" {
							for _, one := range x {
								lines = append(lines, fmt.Sprint(one.(map[string]any)["text"]))
							}
							at = nil
						} else {
							at = x[0].(map[string]any)[k]
						}
					}
				}
				if at != nil {
					lines = append(lines, fmt.Sprint(at))
				}
			}
			return strings.Join(lines, "\n")
		}
	}
	same := func(body string) string { return body }
	teams := "11111111-4444-4444-8444-cccccccccccc@22222222-4444-4444-8444-cccccccccccc/33333333012222222222333333333344/44444444-4444-4444-8444-cccccccccccc/" + token
	for name, test := range map[string]struct {
		url, answer, where string
		of                 func(string) string
		want               string
	}{
		"generic": {"generic://HOST/" + token + "?disabletls=yes", "", "POST /" + token, same, plain},
		"generic JSON": {"generic+http://HOST/hook?template=json&disabletls=yes", "", "POST /hook", text("title", "message"),
			"web: the deploy failed\n" + plain},
		"ntfy":   {"ntfy://someone:" + token + "@HOST/topic?scheme=http", "{}", "POST /topic web: the deploy failed", same, plain},
		"gotify": {"gotify://HOST/AzyoeNS.D4iJLVa?disabletls=yes", "{}", "POST /message", text("title", "message"), "web: the deploy failed\n" + plain},
		"telegram": {"telegram://110201543:" + token + "AAAAAAAAAAA@telegram?chats=-100123&parsemode=HTML", `{"ok":true,"result":{}}`, "POST /bot110201543:" + token + "AAAAAAAAAAA/sendMessage", text("parse_mode", "text"),
			"HTML\n<b>web: the deploy failed</b>\n" + strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(plain)},
		"discord": {"discord://" + token + "@123456789", "", "POST /api/webhooks/123456789/" + token, text("embeds.title", "embeds.description", "content"), "web: the deploy failed\n" + coded},
		"slack": {"slack://hook:AAAAAAAAA-BBBBBBBBB-" + token + "@webhook", "ok", "POST /services/AAAAAAAAA/BBBBBBBBB/" + token, text("text", "attachments.*"),
			"web: the deploy failed\n" + strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(coded)},
		"mattermost": {"mattermost://HOST/" + token + "?disabletls=yes", "ok", "POST /hooks/" + token, text("text"), coded},
		"matrix":     {"matrix://:" + token + "@HOST/?rooms=!room:example.com&disabletls=yes", `{"room_id":"!room:example.com"}`, "POST /_matrix/client/r0/join/!room:example.com", nil, ""},
		"teams": {"teams://" + teams[:73] + "/" + teams[74:] + "?host=example.webhook.office.com", "1", "POST /webhookb2/" + teams[:73] + "/IncomingWebhook/" + teams[74:], text("title", "sections.*"),
			"web: the deploy failed\nThe deploy of web failed.\n" +
				"Commit 0123456789ab @\u200beveryone \\<\u200b\\!channel\\> \\<\u200b@\u200bU1\\> \\*\\*bold\\*\\* \\[click\\]\\(http://evil\\.example\\) \\`code\\` red turned Bcc: a@\u200bevil\\.example\n" +
				"The last lines:\none\n \n@\u200bhere two \\`three\\`"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, test.answer)
			hosted.Lock()
			hosted.to = r.host()
			hosted.Unlock()
			address := strings.ReplaceAll(test.url, "HOST", r.host())
			if err := Check(address); err != nil {
				t.Fatalf("the URL is refused: %v", err)
			}
			if err := New(address).Send(t.Context(), hello()); err != nil {
				t.Fatal(err)
			}
			got := <-r.got
			where, body, _ := strings.Cut(got, "\n")
			if strings.TrimSpace(where) != test.where {
				t.Errorf("it went to %q, want %q", where, test.where)
			}
			if name == "matrix" {
				_, body, _ = strings.Cut(<-r.got, "\n")
				test.of, test.want = text("msgtype", "body"), "m.text\n"+strings.NewReplacer("@", "@\u200b", "<", "<\u200b").Replace(plain)
			}
			if got := test.of(body); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

// mailbox is a server for mail, and what it got.
type mailbox struct {
	address string
	got     chan []byte
	refuse  error
}

func newMailbox(t *testing.T) *mailbox {
	m := &mailbox{got: make(chan []byte, 10)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return session{m}, nil }))
	s.Domain = "mail.example.com"
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return m
}

type session struct{ m *mailbox }

func (session) Reset()                                 {}
func (session) Logout() error                          { return nil }
func (session) Mail(string, *smtp.MailOptions) error   { return nil }
func (s session) Rcpt(string, *smtp.RcptOptions) error { return s.m.refuse }
func (s session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	s.m.got <- data
	return err
}

func TestSend_Mail(t *testing.T) {
	box := newMailbox(t)
	s := New("smtp://" + box.address + "/?from=deployer@example.com&to=team@example.com&usehtml=yes")
	m := hello()
	m.Title = "wéb:\r\nBcc: all@evil.example"
	if err := s.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	letter, err := mail.ReadMessage(bytes.NewReader(<-box.got))
	if err != nil {
		t.Fatal(err)
	}
	if h := letter.Header; h.Get("Bcc") != "" || h.Get("To") != "team@example.com" || h.Get("Content-Type") != `text/plain; charset="UTF-8"` ||
		h.Get("Subject") != "=?utf-8?q?w=C3=A9b:_Bcc:_all@evil.example?=" {
		t.Errorf("the headers are %q", h)
	}
	body, _ := io.ReadAll(letter.Body)
	if text := strings.ReplaceAll(string(body), "\r\n", "\n"); !strings.Contains(text, "turned Bcc: a@evil.example\nThe last lines:\none\n") {
		t.Errorf("the text is %q", text)
	}
	box.refuse = &smtp.SMTPError{Code: 550, Message: "no such user"}
	if err := s.Send(t.Context(), m); !Refused(err) || !strings.Contains(err.Error(), "550") {
		t.Errorf("the error is %v, refused for good: %v", err, Refused(err))
	}
	box.refuse = &smtp.SMTPError{Code: 451, Message: "later"}
	if err := s.Send(t.Context(), m); err == nil || Refused(err) {
		t.Errorf("the error is %v, refused for good: %v", err, Refused(err))
	}
}

// What passes is told from what does not, and no error has anything of the URL but
// the service's host.
func TestSend_Errors(t *testing.T) {
	for name, test := range map[string]struct {
		url, body string
		status    int
		refused   bool
		want      string
	}{
		"gone":              {"generic://HOST/" + token + "?disabletls=yes", "", 404, true, "404 Not Found"},
		"no right":          {"generic://HOST/" + token + "?disabletls=yes", "", 401, true, "401 Unauthorized"},
		"too many":          {"generic://HOST/" + token + "?disabletls=yes", "", 429, false, "429 Too Many Requests"},
		"broken":            {"generic://HOST/" + token + "?disabletls=yes", "", 500, false, "500 Internal Server Error"},
		"ntfy's own words":  {"ntfy://u:" + token + "@HOST/topic?scheme=http", `{"code":40301,"error":"forbidden"}`, 403, true, "forbidden"},
		"ntfy's number":     {"ntfy://u:" + token + "@HOST/topic?scheme=http", `{"code":40401,"error":"page not found"}`, 404, true, "40401"},
		"ntfy's patience":   {"ntfy://u:" + token + "@HOST/topic?scheme=http", `{"code":42901,"error":"limit reached"}`, 429, false, "42901"},
		"Slack's own words": {"slack://hook:AAAAAAAAA-BBBBBBBBB-" + token + "@webhook", "no_service", 200, true, "no_service"},
		"Telegram's":        {"telegram://110201543:" + token + "AAAAAAAAAAA@telegram?chats=1", `{"ok":false,"error_code":401,"description":"Unauthorized"}`, 401, true, "Unauthorized"},
		"Matrix's":          {"matrix://:" + token + "@HOST/?disabletls=yes", `{"errcode":"M_UNKNOWN_TOKEN","error":"Forbidden"}`, 401, true, "Forbidden"},
		"an echo":           {"slack://hook:AAAAAAAAA-BBBBBBBBB-" + token + "@webhook", "no " + token + " at https://hooks.slack.com/services/AAAAAAAAA/BBBBBBBBB/" + token, 200, false, "no *** at https://hooks.slack.com/[secret]"},
		"a long answer":     {"slack://hook:AAAAAAAAA-BBBBBBBBB-" + token + "@webhook", strings.Repeat("word ", 10000), 500, false, " ..."},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, test.body)
			answer := r.answer
			r.answer = func(w http.ResponseWriter) { w.WriteHeader(test.status); answer(w) }
			hosted.Lock()
			hosted.to = r.host()
			hosted.Unlock()
			err := New(strings.ReplaceAll(test.url, "HOST", r.host())).Send(t.Context(), hello())
			if err == nil || Refused(err) != test.refused || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 400 {
				t.Errorf("the error is %v, refused for good: %v", err, Refused(err))
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
	for _, address := range []string{
		"generic://HOST/" + token + "?disabletls=yes&x=" + token, "ntfy://" + token + ":" + token + "@HOST/topic?scheme=http",
		"smtp://u:" + token + "@HOST/?from=a@example.com&to=b@example.com", "matrix://u:" + token + "@HOST/?disabletls=yes",
	} {
		err := New(strings.ReplaceAll(address, "HOST", "127.0.0.1:1")).Send(t.Context(), hello())
		if err == nil || Refused(err) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error is %v", address, err)
		}
	}
}

// A service that never answers costs no more than a few goroutines, and works again
// once it answers.
func TestSend_AServiceThatHangsIsNotAskedForEver(t *testing.T) {
	r := newReceiver(t, "ok")
	hang := make(chan struct{})
	r.answer = func(http.ResponseWriter) { <-hang }
	s := New("generic://" + r.host() + "/?disabletls=yes")
	s.within = time.Millisecond
	for range maxHanging {
		if err := s.Send(t.Context(), hello()); err == nil || !strings.Contains(err.Error(), "did not answer within") {
			t.Fatalf("the error is %v", err)
		}
	}
	if err := s.Send(t.Context(), hello()); !errors.Is(err, errHanging) || Refused(err) {
		t.Fatalf("the error is %v", err)
	}
	close(hang)
	testkit.Wait(t, "the answers", func() bool { return len(s.going) == 0 })
	s.within = time.Minute
	if err := s.Send(t.Context(), hello()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the end"))
	if err := s.Send(ctx, hello()); err == nil || err.Error() != "the end" {
		t.Errorf("the error is %v", err)
	}
}

// No URL makes a panic of the library ours, asks a service, or shows itself.
func TestCheck_RefusesWhatCannotBeReached(t *testing.T) {
	for address, want := range map[string]string{
		"generic://": "no host", "generic+https:///hook": "no host", "smtp://user:password@:25/?from=a@b.c&to=d@e.f": "no host",
		"smtp://user:password@mail.example.com:99999/?from=a@b.c&to=d@e.f": "port", "generic+https://example.com:65536/hook": "port",
	} {
		if err := Check(address); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "password") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, address := range []string{"matrix://:token@h/?rooms=", "generic+", "generic+http://h", "discord://t@1", "smtp://h", "teams://a@b/c/d/e", "slack://a:b-c-d@e"} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		err := Check(address)
		u, parsed := url.Parse(address)
		if err == nil && parsed != nil {
			t.Fatal("what is no URL is accepted")
		}
		if err == nil || parsed != nil {
			return
		}
		if password, _ := u.User.Password(); len(password) > 8 && !strings.Contains(strings.Join(services(), " "), password) && strings.Contains(err.Error(), password) {
			t.Fatalf("%q shows the password %q", err, password)
		}
	})
}

func TestMessage_IsBounded(t *testing.T) {
	m := Message{Title: "x"}
	for range 50 {
		m.Quote("a", strings.Repeat("\u20ac", 1000))
		m.QuoteLines("b", strings.Repeat(strings.Repeat("\u20ac", 1000)+"\n", 1000))
	}
	for s := broken; s <= escaped; s++ {
		text := m.text(s)
		if len(text) > maxText || strings.Contains(text, "\uFFFD") {
			t.Errorf("style %d: %d bytes", s, len(text))
		}
	}
}
