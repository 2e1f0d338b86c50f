package helper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script writes an executable shell script and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	testkit.Program(t, path, "#!/bin/sh\n"+text+"\n")
	return path
}

// rules are those of a file with this text, which let the user of the test ask.
func rules(t *testing.T, text string) func() (Rules, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "helper.toml")
	me, err := user.Current()
	if err = errors.Join(err, os.WriteFile(file, fmt.Appendf(nil, "user = %q\n%s", me.Username, text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return func() (Rules, error) { return loadRules(file, os.Getuid()) }
}

// world is a helper that listens, with root's journal.
type world struct {
	Client
	journal *testkit.Buffer
	done    chan struct{}
}

// listen serves one call after another.
func listen(t *testing.T, rules func() (Rules, error)) world {
	t.Helper()
	w := world{journal: &testkit.Buffer{}, done: make(chan struct{})}
	w.Socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", w.Socket)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.journal, nil))
	go func() {
		defer close(w.done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in, err := conn.(*net.UnixConn).File()
			_ = conn.Close()
			if err == nil {
				err = Serve(context.Background(), in, nil, rules, log)
				_ = in.Close()
			}
			if err != nil {
				log.Error("serve", "error", err)
			}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-w.done
	})
	return w
}

// ask makes a call, and returns the output and the error's text.
func (w world) ask(t *testing.T, verb string, args ...string) (out, wrong string) {
	t.Helper()
	return w.call(t, Request{Verb: verb, Args: args})
}

func (w world) call(t *testing.T, r Request) (out, wrong string) {
	t.Helper()
	var buf bytes.Buffer
	if err := w.Call(t.Context(), r, &buf); err != nil {
		wrong = err.Error()
	}
	return buf.String(), wrong
}

func TestHelper_RefusesWhatNoRuleNames(t *testing.T) {
	t.Parallel()
	w := listen(t, rules(t, `
restart = ["app.service"]
[certificates]
names = ["*.example.com"]
`))
	long := strings.Repeat("x", 64)
	for _, test := range []struct {
		call []string
		want string
	}{
		{[]string{"shutdown"}, `there is no verb "shutdown"`},
		{[]string{"restart"}, "takes the name of one unit"},
		{[]string{"restart", "app", "other"}, "takes the name of one unit"},
		{[]string{"restart", "other"}, `restart other.service is not allowed by `},
		{[]string{"restart", "--version"}, "takes the name of one unit"},
		{[]string{"restart", "app.service;reboot"}, "takes the name of one unit"},
		{[]string{"restart", "app.service\n"}, "takes the name of one unit"},
		{[]string{"restart", "*"}, "takes the name of one unit"},
		{[]string{"reload", "app"}, `add "app.service" to reload = [...]`},
		{[]string{"start-pm2"}, `add [pm2] unit = "pm2-USER.service"`},
		{[]string{"nginx-test"}, `add [nginx] unit = "nginx.service"`},
		{[]string{"nginx-reload"}, `add [nginx] unit = "nginx.service"`},
		{[]string{"nginx-errors"}, `add [nginx] unit = "nginx.service"`},
		{[]string{"certificate", "www.example.com"}, "takes a site and the names"},
		{[]string{"certificate", "www.example.com", "--pre-hook=reboot"}, "is not the name of a host"},
		{[]string{"certificate", "--pre-hook=reboot", "www.example.com"}, "is not the name of a host"},
		{[]string{"certificate", "www.example.com", "../x.example.com"}, "is not the name of a host"},
		{[]string{"certificate", "www.example.com", "*.example.com"}, "is not the name of a host"},
		{[]string{"certificate", "www.example.com", "WWW.example.com"}, "is not the name of a host"},
		{[]string{"certificate", "www.example.com", long + ".example.com"}, "is not the name of a host"},
		{[]string{"certificate", "www.example.com", "example.com"}, `add "example.com" to [certificates] names`},
		{[]string{"certificate", "www.example.com", "www.badexample.com"}, "is not allowed by "},
		{append([]string{"certificate"}, slices.Repeat([]string{"www.example.com"}, 102)...), "at most 100 names, not 101"},
		{[]string{"certificate-info", "../live"}, "is not the name of a host"},
	} {
		for _, dry := range []bool{false, true} {
			if dry && len(test.call) == 1 && test.call[0] != "shutdown" {
				continue // which asks in general
			}
			out, wrong := w.call(t, Request{Verb: test.call[0], Args: test.call[1:], Dry: dry})
			if out != "" || !strings.Contains(wrong, test.want) {
				t.Errorf("%q, dry %v: output %q, error %q, want %q", test.call, dry, out, wrong, test.want)
			}
		}
	}
}

func TestHelper_TellsRootsJournalWhoAsks(t *testing.T) {
	t.Parallel()
	nginx := script(t, `echo "nginx: test is successful" >&2; echo "# configuration file /etc/nginx/nginx.conf:"; echo "secret on;"; printf "# configuration file /x:"; echo`)
	w := listen(t, rules(t, fmt.Sprintf("[nginx]\nunit = \"nginx\"\ncommand = [%q]\n", nginx)))
	out, wrong := w.call(t, Request{Verb: "nginx-test", Deployment: "sites", DeliveryID: "d-1", Actor: "eve\nlevel=ERROR forged=yes"})
	for _, line := range []string{"nginx: test is successful\n", "# configuration file /etc/nginx/nginx.conf:\n", "# configuration file /x:\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("the output lacks %q: %q", line, out)
		}
	}
	if wrong != "" || strings.Contains(out, "secret") {
		t.Errorf("output %q, error %q", out, wrong)
	}
	w.ask(t, "nginx-test", "-c", "/tmp/x")
	w.ask(t, "nginx-test") // so that the one before is told of
	for _, text := range []string{
		"level=INFO msg=asked verb=nginx-test args=[] dry=false uid=" + strconv.Itoa(os.Getuid()),
		`deployment=sites delivery=d-1 actor="eve\nlevel=ERROR forged=yes"`, "level=INFO msg=done",
		`level=WARN msg="it is refused, or failed"`, "takes no arguments",
	} {
		if !strings.Contains(w.journal.String(), text) {
			t.Errorf("the journal lacks %s:\n%s", text, w.journal)
		}
	}
}

func TestHelper_ExitCodeIsTheVerbs(t *testing.T) {
	t.Parallel()
	nginx := script(t, `echo 'nginx: [emerg] unknown directive "x"' >&2; exit 7`)
	w := listen(t, rules(t, fmt.Sprintf("[nginx]\nunit = \"nginx\"\ncommand = [%q]\n", nginx)))
	var out bytes.Buffer
	err := w.Call(t.Context(), Request{Verb: "nginx-test"}, &out)
	exit, ok := errors.AsType[*process.ExitError](err)
	if !ok || exit.Code != 7 || err.Error() != "nginx-test exited with code 7" || !strings.Contains(out.String(), "[emerg]") {
		t.Errorf("error %v, output %q", err, &out)
	}
}

func TestHelper_RefusesOtherUsers(t *testing.T) {
	t.Parallel()
	r := Rules{User: "nobody", file: "helper.toml"}
	if err := r.mayAsk(0); err != nil {
		t.Errorf("root may not ask: %v", err)
	}
	if err := r.mayAsk(12345); err == nil || !strings.Contains(err.Error(), `the user 12345 may not ask: helper.toml names "nobody"`) {
		t.Errorf("the error is %v", err)
	}
	r.User = "no-such-user"
	if err := r.mayAsk(12345); err == nil || !strings.Contains(err.Error(), `names the user "no-such-user"`) {
		t.Errorf("the error is %v", err)
	}
}

func TestHelper_TakesNoRequestThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := listen(t, rules(t, ""))
	for _, line := range []string{"restart app\n", `{"verb":"restart","shell":"sh"}` + "\n", strings.Repeat("x", 2*maxRequest)} {
		conn, err := net.Dial("unix", w.Socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, line)
		if answer, _ := io.ReadAll(conn); len(answer) > 0 {
			t.Errorf("%.40q was answered %q", line, answer)
		}
		conn.Close()
	}
	// A line that the journal cuts would go on as one of the helper's.
	long := strings.Repeat("\u2028msg=asked verb=restart args=[shadow.service] ", 1000)
	w.call(t, Request{Verb: long})
	w.call(t, Request{Verb: "restart", Args: []string{long}})
	w.call(t, Request{Verb: "restart", Actor: long})
	conn, err := net.Dial("unix", w.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "{%q:1}\n", long)
	_, _ = io.ReadAll(conn)
	w.ask(t, "restart") // so that the one before is told of
	for line := range strings.Lines(w.journal.String()) {
		if len(line) >= 48<<10 {
			t.Errorf("a line of %d bytes in the journal: %.100s", len(line), line)
		}
	}
	if _, wrong := w.ask(t, "restart", strings.Repeat("x", maxRequest)); !strings.Contains(wrong, "too long") {
		t.Errorf("the error is %q", wrong)
	}
}

func TestHelper_EndsWhatItsCallerDoesNotWaitFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nginx := script(t, fmt.Sprintf(`trap 'echo ended > %[1]s/ended; exit 0' TERM; echo begun >&2; sleep 60 & wait`, dir))
	w := listen(t, rules(t, fmt.Sprintf("[nginx]\nunit = \"nginx\"\ncommand = [%q]\n", nginx)))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the deploy was canceled")
	err := w.Call(ctx, Request{Verb: "nginx-test"}, writer(func(p []byte) { cancel(gone) }))
	if !errors.Is(err, gone) {
		t.Errorf("the error is %v", err)
	}
	testkit.Wait(t, "the program is ended", func() bool {
		_, err := os.Stat(filepath.Join(dir, "ended"))
		return err == nil
	})
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

func TestHelper_BoundsTheOutput(t *testing.T) {
	t.Parallel()
	nginx := script(t, `head -c 9000000 /dev/zero >&2`)
	w := listen(t, rules(t, fmt.Sprintf("[nginx]\nunit = \"nginx\"\ncommand = [%q]\n", nginx)))
	out, wrong := w.ask(t, "nginx-test")
	if wrong != "" || len(out) > maxOutput+100 || len(out) < maxOutput/2 || !strings.Contains(out, "(the rest of the output is left out)") {
		t.Errorf("%d bytes, error %q", len(out), wrong)
	}
}

func TestHelper_CertbotGetsFixedOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certbot := script(t, `echo "$@"`)
	for name, test := range map[string]struct{ rules, want string }{
		"defaults": {"", "certonly --non-interactive --agree-tos --renew-with-new-domains --register-unsafely-without-email --nginx --cert-name www.example.com -d www.example.com -d example.com\n"},
		"all": {"authenticator = \"webroot\"\nwebroot = \"/var/www/html\"\nserver = \"https://ca.example/dir\"\nemail = \"a@example.com\"\n",
			"certonly --non-interactive --agree-tos --renew-with-new-domains -m a@example.com --server https://ca.example/dir --webroot -w /var/www/html --cert-name www.example.com -d www.example.com -d example.com\n"},
	} {
		w := listen(t, rules(t, fmt.Sprintf("[certificates]\nnames = [\"*\"]\ncommand = [%q]\nlive = %q\n%s", certbot, dir, test.rules)))
		if out, wrong := w.ask(t, "certificate", "www.example.com", "www.example.com", "example.com"); out != test.want || wrong != "" {
			t.Errorf("%s: output %q, error %q", name, out, wrong)
		}
		if out, wrong := w.call(t, Request{Verb: "certificate", Dry: true}); out != "would run "+certbot+"\n" || wrong != "" {
			t.Errorf("%s, in general: output %q, error %q", name, out, wrong)
		}
	}
}

func TestHelper_TellsTheAnswerOfTheCA(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "letsencrypt.log")
	text := "2026-11-27 DEBUG: hello\nHTTP 429\nRetry-After: 3600\nacme.messages.Error: urn:ietf:params:acme:error:rateLimited :: too many\nAttributeError: can't set attribute\n"
	said := log + ".said"
	if err := os.WriteFile(said, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	certbot := script(t, fmt.Sprintf(`if [ -e %[1]s.new ]; then mv %[1]s.new %[1]s; fi; cat %[1]s.said >> %[1]s; echo "AttributeError: can't set attribute"; exit 1`, log))
	w := listen(t, rules(t, fmt.Sprintf("[certificates]\nnames = [\"*\"]\ncommand = [%q]\nlog = %q\n", certbot, log)))
	// A log that certbot has gone on with has the answers to other runs; and another log
	// may be there in its place.
	for _, before := range []string{"", "acme.messages.Error: urn:ietf:params:acme:error:unauthorized :: of another run\n"} {
		for _, place := range []string{log, log + ".new"} {
			if err := os.WriteFile(log, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(place, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			out, wrong := w.ask(t, "certificate", "www.example.com", "www.example.com")
			if !strings.Contains(out, "HTTP 429\nRetry-After: 3600\nacme.messages.Error: urn:") || strings.Contains(out, "hello") || !strings.HasSuffix(wrong, "exited with code 1") {
				t.Errorf("output %q, error %q", out, wrong)
			}
			if place == log && strings.Contains(out, "of another run") {
				t.Errorf("the output has the answer to another run: %q", out)
			}
		}
	}
}

func TestHelper_GivesTheCertificateAndNoKey(t *testing.T) {
	t.Parallel()
	live := t.TempDir()
	w := listen(t, rules(t, fmt.Sprintf("[certificates]\nnames = [\"*.example.com\"]\nlive = %q\n", live)))
	if out, wrong := w.ask(t, "certificate-info", "www.example.com"); out+wrong != "" {
		t.Errorf("of a site without: output %q, error %q", out, wrong)
	}
	const block = "-----BEGIN %[1]s-----\nAAAA\n-----END %[1]s-----\n"
	if err := os.Mkdir(filepath.Join(live, "www.example.com"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(block, "PRIVATE KEY") + "junk\n" + fmt.Sprintf(block, "CERTIFICATE")
	if err := os.WriteFile(filepath.Join(live, "www.example.com", "fullchain.pem"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, wrong := w.ask(t, "certificate-info", "www.example.com"); out != fmt.Sprintf(block, "CERTIFICATE") || wrong != "" {
		t.Errorf("output %q, error %q", out, wrong)
	}
}

func TestHelper_ShowsTroubleOfNginx(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "error.log")
	w := listen(t, rules(t, fmt.Sprintf("[nginx]\nunit = \"nginx\"\nerror_log = %q\n", log)))
	if out, wrong := w.ask(t, "nginx-errors"); out+wrong != "" {
		t.Errorf("without a log: output %q, error %q", out, wrong)
	}
	text := strings.Repeat("[error] one request\n", 20000) + strings.Repeat("[emerg] bind() failed\n", 30) + "[notice] done\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, wrong := w.ask(t, "nginx-errors"); out != strings.Repeat("[emerg] bind() failed\n", 20) || wrong != "" {
		t.Errorf("output %q, error %q", out, wrong)
	}
	if err := errors.Join(os.Remove(log), os.Symlink("/etc/shadow", log)); err != nil {
		t.Fatal(err)
	}
	if out, wrong := w.ask(t, "nginx-errors"); out != "" || wrong == "" {
		t.Errorf("of a link: output %q, error %q", out, wrong)
	}
}

func TestRules_RefuseAFileThatOthersCanWrite(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil func(dir, file string) error
		want  string
	}{
		"the file":            {func(_, file string) error { return os.Chmod(file, 0o664) }, "can be written by others than root"},
		"its directory":       {func(dir, _ string) error { return os.Chmod(dir, 0o777) }, "can be written by others than root"},
		"none":                {func(_, file string) error { return os.Remove(file) }, "nothing is allowed: write it as docs/handlers/helper.md says"},
		"a link in its place": {func(_, file string) error { return errors.Join(os.Rename(file, file+"2"), os.Symlink(file+"2", file)) }, "too many levels of symbolic links"},
		"a pipe in its place": {func(_, file string) error { return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)) }, "is not a regular file"},
	} {
		dir := filepath.Join(t.TempDir(), "etc")
		file := filepath.Join(dir, "helper.toml")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		if _, err := loadRules(file, os.Getuid()); err != nil {
			t.Fatal(err)
		}
		if err := test.spoil(dir, file); err != nil {
			t.Fatal(err)
		}
		if _, err := loadRules(file, os.Getuid()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := filepath.Join(t.TempDir(), "helper.toml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(file, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := loadRules(file, 0); err == nil || !strings.Contains(err.Error(), "does not belong to root") {
		t.Errorf("of another owner: %v", err)
	}
}

func TestRules_SayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`restrat = ["app"]`:                             `h.toml:1:1: unknown key "restrat" at the top level; did you mean "restart"?`,
		`restart = "app"`:                               `h.toml:1:1: restart must be a list of strings, not a string`,
		`restart = ["app/x"]`:                           `h.toml:1:12: restart[0] "app/x" is not the name of a systemd unit`,
		"[nginx]\nunit = \"-x\"":                        `h.toml:2:1: nginx.unit "-x" is not the name of a systemd unit`,
		"[nginx]\ncommand = [\"nginx\"]":                `nginx.command must begin with the absolute path of a program`,
		"[certificates]\nnames = [\"x;y.example.com\"]": `certificates.names has "x;y.example.com"`,
		"[certificates]\nauthenticator = \"dns\"":       `certificates.authenticator must be "nginx" or "webroot", not "dns"`,
		"[certificates]\nauthenticator = \"webroot\"":   `add webroot = "/var/www/html"`,
		"[certificates]\nserver = \"--pre-hook=x\"":     `would be taken for an option`,
		"restart = [":                                   `h.toml:1:`,
	} {
		if _, err := parseRules("h.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestClient_SaysWhatToDoWhereNobodyListens(t *testing.T) {
	t.Parallel()
	w := world{Client: Client{Socket: filepath.Join(t.TempDir(), "s")}}
	if _, wrong := w.ask(t, "restart", "app"); !strings.Contains(wrong, "systemctl start durhack-deployer-helper.socket") {
		t.Errorf("the error is %q", wrong)
	}
}

// The lines of sudoers run the helper with the request as its standard input.
func TestClient_AsksACommandInPlaceOfTheSocket(t *testing.T) {
	t.Parallel()
	request := filepath.Join(t.TempDir(), "request")
	w := world{Client: Client{Command: []string{script(t, fmt.Sprintf(`cat > %s; echo "sudo: hello" >&2; echo '{"output":"aGkK"}'; echo '{"done":true,"exit_code":3}'`, request))}}}
	out, wrong := w.call(t, Request{Verb: "restart", Args: []string{"app"}, Actor: "ann"})
	if !strings.Contains(out, "hi\n") || !strings.Contains(out, "sudo: hello\n") || wrong != "restart app exited with code 3" {
		t.Errorf("output %q, error %q", out, wrong)
	}
	text, err := os.ReadFile(request)
	var r Request
	if err = errors.Join(err, json.Unmarshal(text, &r)); err != nil || r.Actor != "ann" {
		t.Errorf("the request is %q: %v", text, err)
	}
	w.Command = []string{script(t, `echo "sudo: a password is required" >&2; exit 1`)}
	if out, wrong := w.ask(t, "restart", "app"); !strings.Contains(out, "a password is required") || !strings.Contains(wrong, "exited with code 1") {
		t.Errorf("output %q, error %q", out, wrong)
	}
	w.Command = []string{script(t, `echo nonsense`)}
	if _, wrong := w.ask(t, "restart", "app"); !strings.Contains(wrong, "read the helper's answer") {
		t.Errorf("error %q", wrong)
	}
}

func TestRules_OfThePageLoad(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/handlers/helper.md")
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, example := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if regexp.MustCompile(`(?m)^\[(deployments\.|helper\])`).MatchString(example[1]) {
			continue // of the deployer
		}
		loaded++
		if r, err := parseRules("helper.toml", []byte(example[1])); err != nil || len(r.Restart) == 0 {
			t.Errorf("%v, %+v", err, r)
		}
	}
	if loaded == 0 {
		t.Error("the page has no rules")
	}
}

func TestHere_DoesWhatTheRulesAllow(t *testing.T) {
	t.Parallel()
	nginx := script(t, `echo "nginx $*"; [ "$2" != reload ] || exit 3`)
	here := Here{Rules{Nginx: Nginx{Signal: true, Command: []string{nginx, "-c"}}}}
	var out bytes.Buffer
	err := here.Call(t.Context(), Request{Verb: names.VerbNginxReload}, &out)
	if err != nil || out.String() != "nginx -c -s reload\n" {
		t.Errorf("it said %q, %v", out.String(), err)
	}
	here.Nginx.Command = []string{nginx}
	err = here.Call(t.Context(), Request{Verb: names.VerbNginxReload}, nil)
	if exit, ok := errors.AsType[*process.ExitError](err); !ok || exit.Code != 3 {
		t.Errorf("its exit code is in %v", err)
	}
	if err := here.Call(t.Context(), Request{Verb: names.VerbRestart, Args: []string{"x"}}, nil); err == nil || !strings.Contains(err.Error(), "is not allowed") {
		t.Errorf("restart: %v", err)
	}
	out.Reset()
	if err := here.Call(t.Context(), Request{Verb: names.VerbNginxReload, Dry: true}, &out); err != nil || !strings.HasPrefix(out.String(), "would run ") {
		t.Errorf("dry: %q, %v", out.String(), err)
	}
}

// nginx writes to both streams at once.
func TestNginxTest_LinesOfBothStreamsStayWhole(t *testing.T) {
	t.Parallel()
	nginx := script(t, `for i in $(seq 500); do echo "# configuration file /$i:"; echo "[warn] $i" >&2; done`)
	var out bytes.Buffer
	here := Here{Rules{Nginx: Nginx{Signal: true, Command: []string{nginx}}}}
	if err := here.Call(t.Context(), Request{Verb: names.VerbNginxTest}, &out); err != nil {
		t.Fatal(err)
	}
	whole := regexp.MustCompile(`(?m)^(# configuration file /\d+:|\[warn\] \d+)$`)
	if n := len(whole.FindAllString(out.String(), -1)); n != 1000 {
		t.Errorf("%d whole lines in\n%s", n, out.String())
	}
}
