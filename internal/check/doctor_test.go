package check

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
	"github.com/ducompsoc/durhack-deployer/internal/lock"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

var quiet = slog.New(slog.DiscardHandler)

// site is a configuration that is well, but for what a test changes.
type site struct {
	dir, state, dsn, secret, extra string
	branch, program, path          string
	port, admin                    int
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), dsn: pgtest.MigratedDSN(t), secret: "0123456789abcdefghijklmnopqrstuv", branch: "main", program: "true", path: "live"}
	s.state = filepath.Join(s.dir, "state")
	if err := os.MkdirAll(filepath.Join(s.state, "queues", "main"), 0o755); err != nil {
		t.Fatal(err)
	}
	pusher := filepath.Join(s.dir, "pusher")
	testkit.Git(t, s.dir, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
	testkit.Git(t, s.dir, "init", "--quiet", "--initial-branch=main", "pusher")
	testkit.Git(t, pusher, "commit", "--quiet", "--allow-empty", "-m", "first")
	testkit.Git(t, pusher, "push", "--quiet", filepath.Join(s.dir, "remote.git"), "HEAD:refs/heads/main")
	return s
}

// findings runs all checks, and gives a line for each finding.
func (s *site) findings(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(s.dir, "config.toml")
	text := fmt.Sprintf(`
instance = "test"
state_dir = %q
database_url = %q
webhook_secret_token = %q
[listen]
host = "127.0.0.1"
port = %d
[admin]
port = %d
%s
[deployments.web]
repository = "o/web"
branch = %q
remote = %q
path = %q
[[deployments.web.steps]]
name = "build"
run = [%q]
`, s.state, s.dsn, s.secret, s.port, s.admin, s.extra, s.branch, filepath.Join(s.dir, "remote.git"), filepath.Join(s.dir, s.path), s.program)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load([]string{path}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	err = Doctor(t.Context(), cfg, quiet, func(f Finding) {
		if f.Level != OK && f.Advice == "" && f.Check != "configuration" {
			t.Errorf("no advice for %+v", f)
		}
		if strings.Contains(f.Text+f.Advice, s.secret) {
			t.Errorf("the secret is shown: %+v", f)
		}
		lines = append(lines, fmt.Sprintf("%s %s %s", f.Level, f.Check, f.Text))
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// project builds the read models, as the daemon does.
func (s *site) project(t *testing.T) {
	t.Helper()
	pool := pgtest.Pool(t, s.dsn)
	log := eventlog.Open(pool, quiet)
	defer log.Close()
	if err := projections.New(pool, log, quiet).Rebuild(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// sign appends an event and signs the log. It returns the key's file.
func (s *site) sign(t *testing.T) string {
	t.Helper()
	log := eventlog.Open(pgtest.Pool(t, s.dsn), quiet)
	defer log.Close()
	if _, err := log.Append(t.Context(), eventlog.Group{Transitions: []eventlog.Transition{
		{Instance: "test", DeliveryID: "d1", Attempt: 1, Actor: "ann", Data: eventlog.Received{Event: "push"}},
	}}); err != nil {
		t.Fatal(err)
	}
	return s.signs(t)
}

// signs makes a key and signs the log. It returns the key's file.
func (s *site) signs(t *testing.T) string {
	t.Helper()
	private, key, err := checkpoint.Generate("durhack-deployer/test")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.state, "signer.key")
	if err := os.WriteFile(path, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	log := eventlog.Open(pgtest.Pool(t, s.dsn), quiet)
	defer log.Close()
	if _, _, err := signer.New(signer.Options{Key: key, Log: log, Dir: s.state, Logger: quiet}).Sign(t.Context()); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *site) sql(t *testing.T, sql string) {
	t.Helper()
	s.onDatabase(t, func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), sql)
		return err
	})
}

// rehash gives the events behind the last hashes theirs.
func (s *site) rehash(t *testing.T) {
	t.Helper()
	s.onDatabase(t, func(conn *pgx.Conn) error { return samplelog.Rehash(t.Context(), conn) })
}

func (s *site) onDatabase(t *testing.T, do func(*pgx.Conn) error) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := do(conn); err != nil {
		t.Fatal(err)
	}
}

// has says that exactly one line begins like that and holds the text.
func has(lines []string, begin, text string) bool {
	n := 0
	for _, line := range lines {
		if strings.HasPrefix(line, begin+" ") && strings.Contains(line, text) {
			n++
		}
	}
	return n == 1
}

func TestDoctor_AllIsWell(t *testing.T) {
	s := newSite(t)
	s.sign(t)
	s.project(t)
	_, release, err := lock.OfProcesses(s.state).Acquire(t.Context(), "work")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	lines := s.findings(t)
	for _, line := range lines {
		if strings.HasPrefix(line, "fail") || strings.HasPrefix(line, "warn") && !strings.HasPrefix(line, "warn space") {
			t.Error(line)
		}
	}
	for _, check := range []string{"configuration", "secret", "queues", "database", "projections", "signer", "lock", "git", "paths", "steps", "daemon", "requests"} { // space depends on the machine
		if !has(lines, "ok "+check, "") {
			t.Errorf("not one line for %s in\n%s", check, strings.Join(lines, "\n"))
		}
	}
}

func TestDoctor_FindsWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		name    string
		spoil   func(t *testing.T, s *site)
		begin   string
		want    string
		without string // a check that must then not be fine
	}{
		{"a short secret", func(_ *testing.T, s *site) { s.secret = "abcdefghij" }, "warn secret", "shorter than 16", "ok secret"},
		{"a dull secret", func(_ *testing.T, s *site) { s.secret = strings.Repeat("ab", 20) }, "warn secret", "repeats", "ok secret"},
		{"a secret that everybody reads", func(t *testing.T, s *site) {
			write(t, filepath.Join(s.dir, "config.toml"))
			chmod(t, filepath.Join(s.dir, "config.toml"), 0o644)
		}, "warn secret", "everybody on this host can read it", "ok secret"},
		{"the placeholder", func(_ *testing.T, s *site) { s.secret = "not-a-real-secret-token" }, "warn secret", "no webhook secret", "ok secret"},
		{"an open state_dir", func(t *testing.T, s *site) { chmod(t, s.state, 0o777) }, "fail state_dir", "everybody", "ok state_dir"},
		{"no state_dir", func(t *testing.T, s *site) { remove(t, s.state) }, "warn state_dir", "not there yet", "ok state_dir"},
		{"a file for state_dir", func(t *testing.T, s *site) { remove(t, s.state); write(t, s.state) }, "fail state_dir", "not a directory", "ok state_dir"},
		{"an open queue", func(t *testing.T, s *site) { chmod(t, filepath.Join(s.state, "queues", "main"), 0o777) }, "fail queues", "everybody", "ok queues"},
		{"quarantine", func(t *testing.T, s *site) {
			dir := filepath.Join(s.state, "queues", "web", "quarantine")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "bad.json"))
		}, "warn queues", "web has 1 in quarantine, the newest bad.json", "ok queues"},
		{"a service that refuses what stands", func(t *testing.T, s *site) {
			const told = `[{"entry":"team","what":"stopped","key":"router","state":"refused","error":"404 Not Found"}]`
			if err := os.WriteFile(filepath.Join(s.state, "notified.json"), []byte(told), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "fail notify", "notify: team: refused for good, 1 time, last at 0001-01-01T00:00:00Z: 404 Not Found", ""},
		{"no database", func(_ *testing.T, s *site) { s.dsn = "postgres://u:hidden@127.0.0.1:1/x" }, "fail database", "127.0.0.1", "ok database"},
		{"a database that was not migrated", func(t *testing.T, s *site) { s.dsn = pgtest.DSN(t) }, "fail database", "schema version 0", "ok database"},
		{"a newer database", func(t *testing.T, s *site) { s.sql(t, "update schema_version set version = 999") }, "fail database", "newer", "ok database"},
		{"a database that only reads", func(t *testing.T, s *site) {
			s.sql(t, "do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$")
		}, "fail database", "only read (default_transaction_read_only)", "ok database"},
		{"no right to append", func(t *testing.T, s *site) {
			s.sql(t, "revoke execute on function event_log_lock from durhack_deployer_app")
		}, "fail database", "the right to execute event_log_lock was taken away", "ok database"},
		{"a clock that was set back", func(t *testing.T, s *site) {
			s.sql(t, strings.Replace(event("received"), "now()", "now() + interval '3 hours'", 1))
		}, "warn database", "was recorded 3h0m0s ahead of the database's clock", "fail database"},
		{"a trigger that is gone", func(t *testing.T, s *site) { s.sql(t, "alter table events disable trigger events_append_only") }, "fail database", "events.events_append_only", "fail projections"},
		{"read models past the end", func(t *testing.T, s *site) {
			s.sql(t, fmt.Sprintf("insert into projections.checkpoints (name, version, position, built) values ('state', %d, 9, true)", projections.Version))
		}, "fail projections", "the checkpoint of the read models is 9, but the log ends at 0", "ok projections"},
		{"no read models, and an event", func(t *testing.T, s *site) { s.sql(t, event("received")) }, "warn projections", "not built yet", "ok projections"},
		{"an unknown event", func(t *testing.T, s *site) {
			s.sql(t, event("unheard_of"))
			s.sql(t, fmt.Sprintf("insert into projections.checkpoints (name, version, position, built, error) values ('state', %d, 0, false, 'event at position 1 has type \"unheard_of\"')", projections.Version))
		}, "fail projections", "unheard_of", "ok projections"},
		{"a signing key that others may read", func(t *testing.T, s *site) { chmod(t, s.sign(t), 0o644) }, "fail signer", "mode 0644", "ok signer"},
		{"events that nobody signs", func(t *testing.T, s *site) {
			old := strings.Replace(event("received"), "now()", "now() - interval '3 minutes'", 1)
			first := strings.ReplaceAll(old, "'7'", "'6'")
			s.sql(t, first)
			s.rehash(t)
			s.signs(t)
			s.sql(t, strings.Replace(old, "'test', 'x'", "'test', 'y'", 1))
			s.rehash(t)
		}, "fail signer", "1 event not signed, the first of them since", "ok signer"},
		{"a log that is not what was signed", func(t *testing.T, s *site) {
			s.sign(t)
			s.sql(t, "alter table event_hashes disable trigger all; delete from event_hashes")
		}, "fail signer", "not consistent with the checkpoint", "ok signer"},
		{"steps that may be anybody", func(_ *testing.T, s *site) { s.extra = "user_header = \"X-Remote-User\"" }, "warn steps", "name anybody in X-Remote-User", ""},
		{"a lock server that is away", func(_ *testing.T, s *site) { s.extra = "[lock]\nurl = \"redis://:hidden@127.0.0.1:1\"" }, "fail lock", "127.0.0.1:1", "ok lock"},
		{"a branch that is not there", func(_ *testing.T, s *site) { s.branch = "release" }, "warn git", `no branch "release"`, "ok git"},
		{"a remote that is not there", func(t *testing.T, s *site) { remove(t, filepath.Join(s.dir, "remote.git")) }, "fail git", "web:", "ok git"},
		{"files in the path", func(t *testing.T, s *site) {
			if err := os.Mkdir(filepath.Join(s.dir, "live"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(s.dir, "live", "index.html"))
		}, "fail paths", "is not empty and is not a git repository", "ok paths"},
		{"a file for the path", func(t *testing.T, s *site) { write(t, filepath.Join(s.dir, "live")) }, "fail paths", "live is not a directory", "fail git"},
		{"a file above the path", func(t *testing.T, s *site) { write(t, filepath.Join(s.dir, "above")); s.path = "above/live" }, "fail paths", "not a directory", "ok paths"},
		// /proc holds nothing and has no room.
		{"a path without room", func(t *testing.T, s *site) {
			if err := os.Symlink("/proc", filepath.Join(s.dir, "full")); err != nil {
				t.Fatal(err)
			}
			s.path = "full/live"
		}, "fail space", "0 MiB free, for web", ""},
		{"a program that is missing", func(_ *testing.T, s *site) { s.program = "no-such-program" }, "fail steps", `step "build" of web`, "ok steps"},
		{"refused webhooks", func(t *testing.T, s *site) {
			now := time.Now().Unix() / 60
			counts := fmt.Sprintf(`{"%d":{"busy":1,"signature_mismatch":2},"%d":{"busy":1},"%d":{"busy":40}}`, now, now-30, now-90)
			if err := os.WriteFile(filepath.Join(s.state, "queues", "main", ".refused"), []byte(counts), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "warn requests", "4 webhooks refused in the last hour: 2 busy, 2 signature_mismatch", "ok requests"},
		{"no worker", func(*testing.T, *site) {}, "warn daemon", "no worker runs", "ok daemon"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			test.spoil(t, s)
			lines := s.findings(t)
			if !has(lines, test.begin, test.want) || has(lines, test.without, "") {
				t.Errorf("want one line %q with %q, and none %q, in\n%s", test.begin, test.want, test.without, strings.Join(lines, "\n"))
			}
			for _, line := range lines {
				if strings.Contains(line, "hidden") {
					t.Errorf("a password is shown: %s", line)
				}
			}
		})
	}
}

func TestDoctor_LockServerThatAnswers(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireAuth("correct-horse")
	s := newSite(t)
	s.extra = fmt.Sprintf("[lock]\nurl = \"redis://:correct-horse@%s\"", server.Addr())
	if lines := s.findings(t); !has(lines, "ok lock", "answers") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

// Looking changes nothing, whatever is missing.
func TestDoctor_MakesNothing(t *testing.T) {
	s := newSite(t)
	s.dsn = ""
	remove(t, s.state)
	lines := s.findings(t)
	if !has(lines, "ok database", "will be made") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	if _, err := os.Lstat(s.state); !os.IsNotExist(err) {
		t.Errorf("state_dir was made: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(s.dir, "live")); !os.IsNotExist(err) {
		t.Errorf("the checkout was made: %v", err)
	}
}

func event(typ string) string {
	return fmt.Sprintf(`insert into events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
		select position + 1, '7' || substr(last_id, 2), 'test', 'x', '%s', null, 1, 'x', now(), '{"v":1}' from log_head;
		update log_head set position = position + 1, last_id = '7' || substr(last_id, 2)`, typ)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The reasons of a running worker are told; the answer of another program is not.
func TestDoctor_WorkersOwnReasons(t *testing.T) {
	s := newSite(t)
	_, release, err := lock.OfProcesses(s.state).Acquire(t.Context(), "work")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	answer := `{"status":"unavailable","instance":"test","reasons":["mirror stopped\nat once"]}`
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(answer))
		}
	}))
	defer admin.Close()
	s.admin = admin.Listener.Addr().(*net.TCPAddr).Port
	if lines := s.findings(t); !has(lines, "fail daemon", "mirror stopped; at once") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	answer = `{"instance":"test","reasons":[],"checks":{"recovery":{"troubles":["https://example.com: no\nroute"]}}}`
	if lines := s.findings(t); has(lines, "fail daemon", "") || !has(lines, "warn daemon", "cannot be found: https://example.com: no; route") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	const silent = "the admin pages do not answer: "
	for _, answer = range []string{`{"instance":"other","reasons":["x"]}`, `<html>`, `{"instance":"test","reasons":[]}`} {
		if lines := s.findings(t); has(lines, "fail daemon", "") || !has(lines, "ok daemon", "a worker runs") || has(lines, "warn daemon", silent) == strings.Contains(answer, "test") {
			t.Errorf("%s:\n%s", answer, strings.Join(lines, "\n"))
		}
	}
	admin.Close()
	if lines := s.findings(t); !has(lines, "warn daemon", silent+"Get ") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

// GitHub is asked what the token may, and nothing is changed there.
func TestDoctor_AsksGitHub(t *testing.T) {
	hub := &githubtest.Server{}
	if err := hub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	s := newSite(t)
	token := filepath.Join(s.dir, "token")
	if err := os.WriteFile(token, []byte(githubtest.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	s.extra = fmt.Sprintf("[github]\ntoken_file = %q\napi_url = %q\ndeployments = true", token, hub.URL())
	for _, test := range []struct {
		change      func()
		level, text string
	}{
		{func() {}, "ok github", "GitHub takes what is told of"},
		{func() { hub.Grant(githubtest.Token, map[string]string{"statuses": "write"}) }, "fail github", `it needs the permission "Deployments" (read and write)`},
		{func() { hub.Grant(githubtest.Token, map[string]string{"deployments": "write"}) }, "fail github", `it needs the permission "Commit statuses" (read and write)`},
		{hub.Revoke, "fail github", "wrong, expired or revoked"},
		{func() { hub.Fail(githubtest.SecondaryLimit(60)) }, "warn github", "secondary rate limit"},
	} {
		test.change()
		lines := s.findings(t)
		if !has(lines, test.level, test.text) || strings.Contains(strings.Join(lines, "\n"), githubtest.Token) {
			t.Errorf("want %s: %s\n%s", test.level, test.text, strings.Join(lines, "\n"))
		}
	}
	if len(hub.Statuses())+len(hub.Deployments()) != 0 {
		t.Error("doctor has created something")
	}
}

// A port where nothing, or something else, answers.
func TestDoctor_ListenersPort(t *testing.T) {
	s := newSite(t)
	code := http.StatusNotFound
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer other.Close()
	s.port = other.Listener.Addr().(*net.TCPAddr).Port
	if lines := s.findings(t); !has(lines, "warn daemon", "answers 404") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	code = http.StatusOK
	if lines := s.findings(t); !has(lines, "ok daemon", "webhooks are accepted") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	other.Close()
	if lines := s.findings(t); !has(lines, "warn daemon", "nothing accepts webhooks") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

func TestDoctor_AsksTheHelper(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if lines := s.findings(t); !has(lines, "ok helper", "nothing needs root") {
		t.Errorf("findings %q", lines)
	}
	script := filepath.Join(s.dir, "helper")
	s.extra = fmt.Sprintf(`
[helper]
command = [%q]
[deployments.app]
repository = "o/app"
branch = "main"
path = %q
handler = "command"
restart = ["app", "other"]
`, script, filepath.Join(s.dir, "app"))
	// The helper's side: it answers by what the request names, and must be asked in the dry form.
	text := "#!/bin/sh\nread r\ncase $r in *'\"dry\":true'*) ;; *) exit 9 ;; esac\ncase $r in *other*) echo '{\"done\":true,\"error\":\"not allowed\"}' ;; *) echo '{\"done\":true}' ;; esac\n"
	testkit.Program(t, script, text)
	lines := s.findings(t)
	if !has(lines, "fail helper", `step "restart other" of app: restart other: the helper says: not allowed`) || has(lines, "fail helper", `"restart app"`) {
		t.Errorf("findings %q", lines)
	}
	s.extra = strings.Replace(s.extra, `, "other"`, "", 1)
	if lines := s.findings(t); !has(lines, "ok helper", "root would do 1 thing") {
		t.Errorf("findings %q", lines)
	}
}
