package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

func TestServeTakesAPushLive(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	d := s.run(true, true)
	s.push(d, "d1")
	s.expectDeployed(d, "d1")
	s.mustStop(d)
	if head := s.git(filepath.Join(s.dir, "live"), "rev-parse", "HEAD"); head != s.commit {
		t.Errorf("live is %s, want %s", head, s.commit)
	}
}

// The listener and the worker as two daemons that share the queue directory.
func TestListenAndWorkApart(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	listener := s.run(true, false)
	s.push(listener, "before")
	worker := s.run(false, true)
	s.push(listener, "after")
	s.expectDeployed(worker, "before")
	s.expectDeployed(worker, "after")
	s.mustStop(listener)
	s.mustStop(worker)
}

// Starts and stops, many at once, each at another moment of its life; what is
// left running is found by TestMain.
func TestStartsAndStopsAtAnyMoment(t *testing.T) {
	dsn := pgtest.MigratedDSN(t)
	kinds := []struct{ listen, work bool }{{true, true}, {true, false}, {false, true}, {true, true}}
	var all sync.WaitGroup
	for i, kind := range kinds {
		s := newSite(t, dsn, "")
		s.cfg.Listen.Host = "localhost"
		all.Go(func() {
			for round := range 20 {
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				listening := make(chan struct{})
				if !kind.listen {
					close(listening)
				}
				if round%8 == 0 {
					cancel() // before it is called
				}
				go func() {
					ended <- Run(ctx, Options{
						Config: s.cfg, Listen: kind.listen, Work: kind.work, Logger: quiet,
						Listening: func(net.Addr) { close(listening) },
					})
				}()
				if round%4 != 0 { // else stopped before it has begun
					select {
					case <-listening:
					case err := <-ended:
						t.Errorf("kind %d, round %d: Run ended by itself: %v", i, round, err)
						cancel()
						return
					}
					time.Sleep(time.Duration(round) * 5 * time.Millisecond)
				}
				cancel()
				select {
				case err := <-ended:
					if err != nil {
						t.Errorf("kind %d, round %d: Run: %v", i, round, err)
					}
				case <-time.After(patience):
					t.Errorf("kind %d, round %d: Run does not return", i, round)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestRefusesWhatCannotWork(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	base := fmt.Sprintf("instance = \"test\"\nstate_dir = %q\n[listen]\nhost = \"127.0.0.1\"\nport = 0\n[admin]\nport = 0\n", state)
	token := "webhook_secret_token = \"x\"\n"
	deployment := "[deployments.web]\nrepository = \"o/web\"\nenabled = true\nbranch = \"main\"\npath = \"/srv/web\"\n"
	for name, c := range map[string]struct {
		text         string
		listen, work bool
		want         string
	}{
		"no secret":       {base, true, true, "secret"},
		"an empty one":    {"webhook_secret_token = \"\"\n" + base, true, false, "secret"},
		"a built-in step": {token + base + deployment + "steps = [{ name = \"fetch\", run = [\"true\"] }]\n", false, true, `"fetch" is the name of a step`},
		"self, by name":   {token + base + deployment + "handler = \"self\"\n", false, true, "self"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := tryLoad(t, t.TempDir(), c.text)
			if err == nil {
				err = Run(t.Context(), Options{Config: cfg, Listen: c.listen, Work: c.work, Logger: quiet})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
			if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state_dir was still made: %v", err)
			}
		})
	}
	if err := Refuse(load(t, t.TempDir(), base), false, true); err != nil {
		t.Errorf("work needs no secret, but: %v", err)
	}
	if err := Refuse(load(t, t.TempDir(), token+base+deployment+"instance_name = \"web\"\n"), true, false); err != nil {
		t.Errorf("listen needs no handler, but: %v", err)
	}
}

// A handler can be made of everything that the configuration accepts: otherwise the worker
// would not start, and pushes would wait.
func TestHandlersTakeWhatTheConfigurationAccepts(t *testing.T) {
	t.Parallel()
	texts := []string{
		"", " ", "a", "fetch", "checkout", "Fetch", "plan", "-x", "--", "..", "../x", "a/../b", "/abs", "a=b", "a\x00b", "a\nb", "\u00e9", "x.lock", "x.lock/y",
		"HEAD", "@", "@{u}", "a..b", "refs/heads/main", "-main", "a b", "a~1", "a:b", "a.", ".a", "\xff", "https://x/y", "file:///x", "ext::sh -c x", "git@host:x", "host:x",
		strings.Repeat("a", 200), strings.Repeat("a/", 150) + "a",
	}
	keys := []string{"branch", "path", "remote", "repository", "name", "run", "dir", "env name", "env value"}
	accepted := 0
	for _, key := range keys {
		for _, text := range texts {
			values := map[string]string{
				"branch": "main", "path": "/srv/web", "remote": "/srv/web.git", "repository": "o/web", "name": "build", "run": "make", "dir": "sub",
				"env name": "A", "env value": "b",
			}
			values[key] = text
			q := func(key string) string { return fmt.Sprintf("%q", values[key]) }
			cfg, err := tryLoad(t, t.TempDir(), "webhook_secret_token = \"x\"\ninstance = \"i\"\nstate_dir = \"/nowhere\"\n[deployments.web]\n"+
				"branch = "+q("branch")+"\npath = "+q("path")+"\nremote = "+q("remote")+"\nrepository = "+q("repository")+
				"\nsteps = [{ name = "+q("name")+", run = ["+q("run")+"], dir = "+q("dir")+", env = { "+q("env name")+" = "+q("env value")+" } }]\n")
			if err != nil {
				continue
			}
			accepted++
			handler, err := Handler(cfg, cfg.Deployments["web"])
			if err == nil {
				_, err = handler.Plan(t.Context(), handlers.Job{Branch: cfg.Deployments["web"].Branch, Commit: strings.Repeat("a", 40)})
			}
			if err != nil {
				t.Errorf("%s = %q is accepted, but: %v", key, text, err)
			}
		}
	}
	if accepted < len(keys) {
		t.Errorf("only %d were accepted", accepted)
	}
}

func TestPortInUseNamesTheAddress(t *testing.T) {
	s := newSite(t, "", "")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.cfg.Listen.Port = l.Addr().(*net.TCPAddr).Port
	err = Run(t.Context(), Options{Config: s.cfg, Listen: true, Work: true, Logger: quiet})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "[listen]") {
		t.Errorf("got %v", err)
	}
}

func TestStateDirThatCannotBeMade(t *testing.T) {
	s := newSite(t, "", "")
	if err := os.WriteFile(s.cfg.StateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{Config: s.cfg, Listen: true, Work: true, Logger: quiet})
	if err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("got %v", err)
	}
}

func TestStateDirCanBePassedWhateverTheUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := newSite(t, "", "")
	check := func(path string, want os.FileMode) {
		t.Helper()
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
	for _, want := range []os.FileMode{0o751, 0o700} {
		if err := MakeStateDir(s.cfg); err != nil {
			t.Fatal(err)
		}
		check(s.cfg.StateDir, want)
		check(filepath.Join(s.cfg.StateDir, "queues"), 0o751)
		// The operator's decision is kept.
		if err := os.Chmod(s.cfg.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// A database that belongs to a newer program is not worked on, and the error
// says so; a restart would not help.
func TestDaemon_NewerSchemaEndsIt(t *testing.T) {
	dsn := pgtest.MigratedDSN(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "update public.schema_version set version = version + 1"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, dsn, "")
	err = Run(t.Context(), Options{Config: s.cfg, Listen: true, Work: true, Logger: quiet})
	var tooNew *migrations.TooNewError
	if !errors.As(err, &tooNew) {
		t.Errorf("got %v, want a *TooNewError", err)
	}
}

// Postgres is not there when the daemon starts: pushes are still accepted,
// and go live once it is; and again after it was killed.
func TestPostgresComesLateAndGoesAway(t *testing.T) {
	server := pgtest.NewServer(t)
	dsn := server.Database(t, "late")
	server.Stop(t)
	s := newSite(t, dsn, "")
	d := s.run(true, true)
	s.push(d, "early")
	s.wait(d, "it waits for the database", func() bool { return strings.Contains(d.out.String(), "waiting for the database") })
	server.Start(t)
	s.expectDeployed(d, "early")
	server.Kill(t)
	s.push(d, "meanwhile")
	server.Start(t)
	s.expectDeployed(d, "meanwhile")
	s.mustStop(d)
}

func TestStopsWhileTheDatabaseIsAway(t *testing.T) {
	server := pgtest.NewServer(t)
	dsn := server.Database(t, "away")
	server.Stop(t)
	s := newSite(t, dsn, "")
	d := s.run(true, true)
	s.push(d, "d1")
	s.wait(d, "it waits for the database", func() bool { return strings.Contains(d.out.String(), "waiting for the database") })
	s.mustStop(d)
	left, err := os.ReadDir(s.cfg.QueueDir("main"))
	if err != nil || len(left) == 0 {
		t.Errorf("the push is gone from the queue: %v, %v", left, err)
	}
	server.Start(t)
	d = s.run(true, true)
	s.expectDeployed(d, "d1")
	server.Kill(t) // and while it runs
	s.push(d, "d2")
	s.mustStop(d)
}

// A second process on the same state_dir works only when the first is gone.
func TestSecondWorkerStandsBy(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	first := s.run(true, true)
	s.wait(first, "it works", func() bool { return strings.Contains(first.out.String(), "msg=working") })
	second := s.run(true, true)
	s.wait(second, "it stands by", func() bool { return strings.Contains(second.out.String(), "standing by") })
	s.push(second, "d1")
	s.expectDeployed(first, "d1")
	s.mustStop(first)
	s.push(second, "d2")
	s.expectDeployed(second, "d2")
	s.mustStop(second)
	if strings.Contains(first.out.String(), "delivery=d2") {
		t.Error("the first worked on after its end")
	}
}

func TestKeepStartsAFailedPartAgain(t *testing.T) {
	out := &testkit.Buffer{}
	ctx, cancel := context.WithCancel(context.Background())
	starts := 0
	var told []string
	keep(ctx, slog.New(slog.NewTextHandler(out, nil)), "the part", func(ctx context.Context) error {
		switch starts++; starts {
		case 1:
			return errors.New("it broke")
		case 2:
			return nil // an end that nobody asked for is no better
		}
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}, func(part string, err error) { told = append(told, fmt.Sprintf("%s: %v", part, err)) })
	if want := []string{"the part: it broke", "the part: it ended by itself"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if starts != 3 || strings.Count(out.String(), "component=\"the part\"") != 2 || !strings.Contains(out.String(), "it broke") {
		t.Errorf("started %d times:\n%s", starts, out)
	}
}

// A stream tells of a push until the daemon ends, and then ends, too.
func TestPages_AStreamEndsWithTheDaemon(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	d := s.run(true, true)
	s.becomes(d, 200, "")
	addr := adminAddr.FindStringSubmatch(d.out.String())[1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/api/v1/events?deployment=web", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	for ; err == nil && resp.StatusCode == http.StatusServiceUnavailable; resp, err = client.Do(req) { // it works, but does not follow the log yet
		resp.Body.Close()
		if !retry.Sleep(t.Context(), 10*time.Millisecond) {
			t.Fatal(t.Context().Err())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.push(d, "d1")
	var types []string
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var e eventlog.Event
		data, is := strings.CutPrefix(lines.Text(), "data: ")
		if !is {
			continue
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatal(err)
		}
		if types = append(types, string(e.Type)); e.Type == eventlog.TypeDeployed {
			go func() { _ = d.stop() }()
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream breaks off: %v", err)
	}
	if got := strings.Join(types, " "); got != "forwarded started deployed" {
		t.Errorf("the stream tells of: %s", got)
	}
	s.mustStop(d)
}
