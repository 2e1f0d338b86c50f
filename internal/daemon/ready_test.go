package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
)

type readiness struct {
	Status  string
	Reasons []string
	Checks  struct {
		Work        struct{ Phase string }
		Database    struct{ Reachable bool }
		Projections []ProjectionState
		Queues      []queueState
	}
}

var adminAddr = regexp.MustCompile(`msg="admin pages" addr=(\S+)`)

// ready asks /readyz of a daemon that works.
func (s *site) ready(d *daemon) (int, readiness) {
	s.t.Helper()
	var addr string
	s.wait(d, "it serves admin", func() bool {
		m := adminAddr.FindStringSubmatch(d.out.String())
		if m != nil {
			addr = m[1]
		}
		return m != nil
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var r readiness
	if err := json.Unmarshal(raw, &r); err != nil {
		s.t.Fatalf("%v in %s", err, raw)
	}
	return resp.StatusCode, r
}

// becomes waits until /readyz answers with the code and, where it is not empty, a
// reason that contains the text.
func (s *site) becomes(d *daemon, code int, reason string) readiness {
	s.t.Helper()
	var got int
	var r readiness
	s.wait(d, "readyz "+http.StatusText(code)+" "+reason, func() bool {
		got, r = s.ready(d)
		return got == code && (reason == "" || slices.ContainsFunc(r.Reasons, func(s string) bool { return strings.Contains(s, reason) }))
	})
	return r
}

// unknownEvent appends, as a newer binary would, an event that this one does not know.
func (s *site) unknownEvent(dsn, instance string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.t.Context())
	if err := pgx.BeginFunc(s.t.Context(), conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(s.t.Context(), fmt.Sprintf(`
		insert into events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
		select position + 1, '7' || lpad(position::text, 3, '0') || substr(last_id, 5), '%s', 'x', 'unheard_of', null, 1, 'x', now(), '{"v":1}' from log_head;
		update log_head set position = position + 1, last_id = (select id from events order by position desc limit 1);
		`, instance)); err != nil {
			return err
		}
		return samplelog.Rehash(s.t.Context(), tx)
	}); err != nil {
		s.t.Fatal(err)
	}
}

func TestReadiness(t *testing.T) {
	server := pgtest.NewServer(t)
	dsn := server.Database(t, "ready")
	s := newSite(t, dsn, "")
	server.Stop(t)
	d := s.run(true, true)
	if r := s.becomes(d, 503, "waiting for the database"); r.Checks.Database.Reachable {
		t.Errorf("it says %+v", r)
	}
	server.Start(t)
	r := s.becomes(d, 200, "")
	if r.Checks.Work.Phase != phaseWorking || !r.Checks.Database.Reachable || len(r.Checks.Projections) != 1 || len(r.Checks.Queues) != 2 || len(r.Reasons) != 0 {
		t.Errorf("it says %+v", r)
	}
	s.push(d, "d1")
	s.expectDeployed(d, "d1")
	s.wait(d, "the read models are up to date", func() bool {
		_, r := s.ready(d)
		return len(r.Checks.Projections) == 1 && r.Checks.Projections[0].Head == 4 && r.Checks.Projections[0].Events == 0
	})

	// An event that this binary does not know stops the read models, and nothing else.
	s.unknownEvent(dsn, "elsewhere")
	r = s.becomes(d, 503, `projection state stopped after position 4 of 5: event at position 5 has type "unheard_of"`)
	if p := r.Checks.Projections[0]; !strings.Contains(p.Error, "unheard_of") || p.Events != 1 {
		t.Errorf("it says %+v", p)
	}
	s.push(d, "d2")
	s.wait(d, "d2 is deployed", func() bool { return strings.HasSuffix(s.types("d2"), "deployed") })

	// One of this instance could order a run, so the queues wait for a binary that
	// knows it. Pushes are recorded, and it says that nothing runs.
	s.unknownEvent(dsn, "test")
	s.becomes(d, 503, "mirror failed and is tried again: mirror the queues: event at position 10 ")
	s.push(d, "d3")
	s.wait(d, "d3 is forwarded", func() bool { return strings.HasSuffix(s.types("d3"), "forwarded") })

	// A queue that cannot be read.
	main := s.cfg.QueueDir("main")
	if err := os.RemoveAll(filepath.Join(main, "quarantine")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(main, "quarantine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.becomes(d, 503, "queue main:")
	server.Kill(t)
	s.becomes(d, 503, "the database does not answer")
	server.Start(t)
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// A second process on the same state_dir is well, but not ready.
func TestReadinessOfAStandby(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	first := s.run(true, true)
	s.becomes(first, 200, "")
	second := s.run(false, true)
	s.becomes(second, 503, "standing by")
	s.mustStop(first)
	s.becomes(second, 200, "")
	s.mustStop(second)
}

// Pages cannot be had, but pushes go live: an address that was asked for is tried
// again, and the default one is left to who has it.
func TestAdminPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newSite(t, pgtest.DSN(t), "")
	s.cfg.Admin.Port = l.Addr().(*net.TCPAddr).Port
	s.cfg.AdminSet = false
	d := s.run(true, true)
	s.push(d, "d1")
	s.expectDeployed(d, "d1")
	s.wait(d, "it warns", func() bool {
		return strings.Contains(d.out.String(), "no admin pages: the default address is in use")
	})
	s.mustStop(d)
	s.cfg.AdminSet = true
	d = s.run(true, true)
	s.push(d, "d2")
	s.expectDeployed(d, "d2")
	want := `level=ERROR msg="component failed, restarting" component=admin error="no admin pages, while deploys go on: end the program that has the address, or change [admin] host or port and restart: listen tcp4 ` + l.Addr().String()
	s.wait(d, "it says what to do", func() bool { return strings.Contains(d.out.String(), want) })
	l.Close()
	s.becomes(d, 200, "")
	s.mustStop(d)
	// The listener alone serves none.
	d = s.run(true, false)
	s.mustStop(d)
}

func TestAdminAddressOfAnotherMachine(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	s.cfg.Admin.Host, s.cfg.AdminSet = "192.0.2.1", true
	d := s.run(true, true)
	s.push(d, "d1")
	s.expectDeployed(d, "d1")
	s.wait(d, "it says why", func() bool { return strings.Contains(d.out.String(), "cannot assign requested address") })
	s.mustStop(d)
}

// A standby answers every question, and takes no push: the daemon on it is not
// ready, and goes on by itself once it is promoted.
func TestReadinessOnADatabaseThatCannotBeAppendedTo(t *testing.T) {
	server := pgtest.NewServer(t)
	dsn := server.Database(t, "standby")
	s := newSite(t, dsn, "")
	d := s.run(true, true)
	s.becomes(d, 200, "")
	var data string
	s.query(dsn, "show data_directory", &data)
	server.Stop(t)
	if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	s.becomes(d, 503, "the database is a standby")
	s.push(d, "d1")
	s.becomes(d, 503, "nothing can be appended to the log since ")
	var promoted bool
	s.query(dsn, "select pg_promote()", &promoted)
	s.expectDeployed(d, "d1")
	s.becomes(d, 200, "")
	s.query(dsn, "revoke execute on function event_log_append from durhack_deployer_app", nil)
	s.becomes(d, 503, "the right to execute event_log_append was taken away")
	s.push(d, "d2")
	s.becomes(d, 503, "router failed and is tried again: routing paused; the deliveries wait in the queue: append: ")
	if n := strings.Count(d.out.String(), "routing paused"); n != 1 {
		t.Errorf("%d lines tell of the paused routing, want one:\n%s", n, d.out)
	}
	s.query(dsn, "grant execute on function event_log_append to durhack_deployer_app", nil)
	s.expectDeployed(d, "d2")
	s.becomes(d, 200, "")
	s.mustStop(d)
}

func TestReadinessWithoutTheLockServer(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "[lock]\nurl = \"redis://127.0.0.1:1\"\n")
	d := s.run(true, true)
	s.push(d, "d1")
	s.becomes(d, 503, "web waits since ")
	s.becomes(d, 503, ": the lock server does not answer: ")
	s.mustStop(d)
}

// query runs a statement as the database's owner; value, if not nil, gets what it gives.
func (s *site) query(dsn, sql string, value any) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.t.Context())
	if value == nil {
		_, err = conn.Exec(s.t.Context(), sql)
	} else {
		err = conn.QueryRow(s.t.Context(), sql).Scan(value)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestReadinessTellsOfARefusedConfiguration(t *testing.T) {
	c := &condition{refused: errors.New("a.toml:1:1: unknown key\nb.toml:2:1: another\n")}
	if _, reasons := c.checkConfiguration(t.Context()); len(reasons) != 1 || !strings.HasSuffix(reasons[0], ": a.toml:1:1: unknown key; b.toml:2:1: another") {
		t.Errorf("reasons: %q", reasons)
	}
	if _, reasons := (&condition{}).checkConfiguration(t.Context()); len(reasons) > 0 {
		t.Errorf("reasons where it was not refused: %q", reasons)
	}
}
