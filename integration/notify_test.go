package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// inbox is what people got: the first line of each message, and all of it.
type inbox struct {
	mu   sync.Mutex
	got  []string
	full strings.Builder
}

func (b *inbox) add(subject, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, subject)
	b.full.WriteString(subject + "\n" + text + "\n")
}

func (b *inbox) has(subjects ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(subjects, func(s string) bool { return !slices.Contains(b.got, s) })
}

func (b *inbox) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.full.String()
}

// mailbox is a server for mail; each letter is in the inbox.
type mailbox struct{ inbox }

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return letters{m}, nil }

type letters struct{ to *mailbox }

func (letters) Reset()                               {}
func (letters) Logout() error                        { return nil }
func (letters) Mail(string, *smtp.MailOptions) error { return nil }
func (letters) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (l letters) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	text := strings.ReplaceAll(string(raw), "\r\n", "\n")
	head, body, _ := strings.Cut(text, "\n\n")
	for line := range strings.SplitSeq(head, "\n") {
		if subject, ok := strings.CutPrefix(line, "Subject: "); ok {
			l.to.add(subject, head+"\n\n"+body)
		}
	}
	return err
}

// A service that is down, hangs, or is asked by a daemon that is killed, is told in the
// end; others are told at once, and no deploy waits.
func TestNotify_AServiceThatIsDownIsToldLater(t *testing.T) {
	t.Parallel()
	const token = "a-token-that-nobody-may-see"
	var box mailbox
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := smtp.NewServer(&box)
	go server.Serve(l)
	defer server.Close()

	var chat inbox
	var down atomic.Bool
	hanging := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			if r.Header.Get("X-Hang") != "" {
				<-hanging
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var m struct{ Title, Message string }
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.URL.Path != "/"+token {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		chat.add(m.Title, m.Message)
	}))
	defer service.Close()
	defer close(hanging)

	r := newRepo(t)
	commits := r.pages("main", 3)
	s := newSite(t, pgtest.DSN(t), deployment{slug: "web", repository: "ada/web", remote: r})
	broken := filepath.Join(s.dir, "broken")
	s.deployments[0].steps = []step{script("build", fmt.Sprintf(`if test -e '%s'; then echo "no @here left"; exit 7; fi`, broken))}
	s.extra = fmt.Sprintf(`
[[notify]]
name = "mail"
url = "smtp://%s/?from=deployer@example.com&to=team@example.com"
on = ["failed", "recovered", "deployed"]
[[notify]]
name = "chat"
url = "generic+%s/%s?template=json"
on = ["failed", "recovered", "deployed"]
[[notify]]
name = "silent"
url = "generic+%[2]s/%[3]s?template=json&@X-Hang=yes"
on = ["failed", "recovered", "deployed"]
`, l.Addr(), service.URL, token)
	s.configure()
	p := s.start("serve")
	g := s.github(p.addr())
	p.says("working")
	down.Store(true)
	subjects := []string{"web: deployed", "web: the deploy failed", "web: works again"}
	for i, commit := range commits {
		if i == 1 {
			if err := os.WriteFile(broken, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d := pushOf(newID(), map[string]any{
			"ref": "refs/heads/main", "after": commit, "deleted": false,
			"repository":  map[string]any{"full_name": "ada/web"},
			"sender":      map[string]any{"login": "ada"},
			"head_commit": map[string]any{"id": commit, "message": "Say @everyone\r\nBcc: all@example.com\r\n\r\nmore"},
		})
		g.send(d)
		s.ends(d.id)
		if i == 1 {
			if err := os.Remove(broken); err != nil {
				t.Fatal(err)
			}
			if failed := s.only("failed", s.events().of(d.id).type_(eventlog.TypeFailed)); data[eventlog.Failed](s, failed).Step != "build" {
				t.Errorf("it failed otherwise: %s", failed.Data)
			}
		}
		await(t, "the mail of "+subjects[i], func() bool { return box.has(subjects[i]) })
	}
	if text := box.text(); !strings.Contains(text, "failed with exit code 7 in the step build\n") || !strings.Contains(text, " Say @everyone\n") ||
		!strings.Contains(text, "no @here left") || strings.Contains(text, "\nBcc:") || !strings.Contains(text, "durhack-deployer replay ") {
		t.Errorf("the letters are:\n%s", text)
	}
	p.signal(syscall.SIGKILL)
	<-p.ended
	p = s.start("serve")
	p.says("working")
	await(t, "doctor to name the service that is away", func() bool {
		return strings.Contains(s.command("doctor").out, "notify: chat: tried again, last at ")
	})
	down.Store(false)
	await(t, "the chat to be told of all of it", func() bool { return chat.has(subjects...) })
	for _, text := range []string{p.output(), s.must("log", "--json"), s.command("doctor").out, s.must("config", "show")} {
		if strings.Contains(text, token) {
			t.Errorf("the token is shown: %s", text)
		}
	}
	s.verified()
	p.stop()
}
