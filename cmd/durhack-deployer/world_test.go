package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// patience bounds everything that a script waits for.
const patience = 60 * time.Second

// secret is the webhook secret in the scripts' configurations.
const secret = "of-the-scripts"

type worldKey struct{}

// world is what a script has beside its files.
type world struct {
	dsn         string
	newDatabase func() string
	newServer   func() string
	idle        []*pgx.Conn // what fill has opened
	daemons     map[string]*running
}

// running is a daemon in the background.
type running struct {
	cmd *exec.Cmd
	log string
	end chan error
}

func (w *world) end() {
	for _, conn := range w.idle {
		_ = conn.Close(context.Background()) // the server goes, too
	}
	for _, p := range w.daemons {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.end
	}
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// until calls f until it is true.
func until(ts *testscript.TestScript, what string, f func() bool) {
	for deadline := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain for %s", what)
		}
	}
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

// start serve|listen|work [ARG...] starts a daemon in the background, waits
// until it is ready, and sets $URL where it listens. What it prints goes to
// serve.log, listen.log or work.log.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "start serve|listen|work [ARG...]")
	w, verb := worldOf(ts), args[0]
	if w.daemons[verb] != nil {
		ts.Fatalf("%s runs already", verb)
	}
	p := &running{log: ts.MkAbs(verb + ".log"), end: make(chan error, 1)}
	log, err := os.Create(p.log)
	ts.Check(err)
	defer log.Close()
	exe := strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0]
	p.cmd = exec.Command(filepath.Join(exe, "durhack-deployer"), args...)
	p.cmd.Dir, p.cmd.Stderr = ts.MkAbs("."), log
	p.cmd.Env = environment(ts)
	ts.Check(p.cmd.Start())
	w.daemons[verb] = p
	go func() { p.end <- p.cmd.Wait() }()
	ready := listening
	if verb == "work" {
		ready = regexp.MustCompile(`msg=working`)
	}
	until(ts, verb+" to be ready", func() bool {
		text := ts.ReadFile(p.log)
		select {
		case err := <-p.end:
			p.end <- err
			ts.Fatalf("%s ended early: %v\n%s", verb, err, text)
		default:
		}
		match := ready.FindStringSubmatch(text)
		if len(match) > 1 {
			ts.Setenv("URL", "http://"+match[1])
		}
		return match != nil
	})
}

// halt VERB ends a daemon by SIGTERM and wants it to exit with 0; halt -9 VERB kills it.
func cmdHalt(ts *testscript.TestScript, neg bool, args []string) {
	sig := syscall.SIGTERM
	if len(args) == 2 && args[0] == "-9" {
		sig, args = syscall.SIGKILL, args[1:]
	}
	usage(ts, !neg && len(args) == 1, "halt [-9] VERB")
	w := worldOf(ts)
	p := w.daemons[args[0]]
	if p == nil {
		ts.Fatalf("%s was not started", args[0])
	}
	ts.Check(p.cmd.Process.Signal(sig))
	select {
	case err := <-p.end:
		delete(w.daemons, args[0])
		if err != nil && sig == syscall.SIGTERM {
			ts.Fatalf("%s: %v\n%s", args[0], err, ts.ReadFile(p.log))
		}
	case <-time.After(patience):
		ts.Fatalf("%s did not end\n%s", args[0], ts.ReadFile(p.log))
	}
}

// environment is the script's environment for programs that its commands start.
func environment(ts *testscript.TestScript) []string {
	var env []string
	for _, key := range []string{
		"PATH", "HOME", "TMPDIR", "DATABASE_URL", "TZ", "PASSED", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL",
		"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_AUTHOR_DATE", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_COMMITTER_DATE",
	} {
		env = append(env, key+"="+ts.Getenv(key))
	}
	return env
}

func runGit(ts *testscript.TestScript, dir string, args ...string) string {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = dir, environment(ts)
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("git %s: %v: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

// repo NAME makes a bare repository NAME.git, and a clone of it, NAME, to work in.
func cmdRepo(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "repo NAME")
	work := ts.MkAbs(args[0])
	runGit(ts, ts.MkAbs("."), "init", "--quiet", "--bare", "--initial-branch=main", work+".git")
	runGit(ts, ts.MkAbs("."), "init", "--quiet", "--initial-branch=main", work)
	runGit(ts, work, "remote", "add", "origin", work+".git")
}

// commit NAME MESSAGE [FILE TEXT] commits to main and pushes, and sets $HEAD to the commit.
func cmdCommit(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 2 || len(args) == 4), "commit NAME MESSAGE [FILE TEXT]")
	work := ts.MkAbs(args[0])
	if len(args) == 4 {
		ts.Check(os.WriteFile(filepath.Join(work, args[2]), []byte(args[3]+"\n"), 0o600))
	}
	runGit(ts, work, "add", ".")
	runGit(ts, work, "commit", "--quiet", "--allow-empty", "-m", args[1])
	runGit(ts, work, "push", "--quiet", "--force", "origin", "HEAD:main")
	ts.Setenv("HEAD", runGit(ts, work, "rev-parse", "HEAD"))
}

// push [-event NAME] [-ref REF] [-repo OWNER/NAME] [-commit HASH] [-body FILE] ID
// sends a signed delivery to $URL; without -commit it is a push of $HEAD.
func cmdPush(ts *testscript.TestScript, neg bool, args []string) {
	f := flag.NewFlagSet("push", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	event := f.String("event", "push", "")
	ref := f.String("ref", "refs/heads/main", "")
	repo := f.String("repo", "durhack/app", "")
	commit := f.String("commit", ts.Getenv("HEAD"), "")
	actor := f.String("actor", "ann", "")
	file := f.String("body", "", "")
	err := f.Parse(args)
	usage(ts, err == nil && f.NArg() == 1, "push [-event NAME] [-ref REF] [-repo REPO] [-commit HASH] [-actor NAME] [-body FILE] ID")
	body, err := json.Marshal(map[string]any{
		"ref": *ref, "after": *commit, "deleted": false,
		"repository": map[string]any{"full_name": *repo}, "sender": map[string]any{"login": *actor},
	})
	ts.Check(err)
	if *file != "" {
		body = []byte(ts.ReadFile(*file))
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	req, err := http.NewRequest(http.MethodPost, ts.Getenv("URL")+"/github-webhook", bytes.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", *event)
	req.Header.Set("X-GitHub-Delivery", f.Arg(0))
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if accepted := resp.StatusCode == http.StatusAccepted; accepted == neg {
		ts.Fatalf("%s: %s", resp.Status, answer)
	}
}

// await ID TYPE [ATTEMPT] waits until the log has that event of a delivery, and the read
// models have it or have stopped: commands wait for them only for a moment.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 2 || len(args) == 3), "await ID TYPE [ATTEMPT]")
	attempt := "1"
	if len(args) == 3 {
		attempt = args[2]
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pool, err := pgxpool.New(ctx, worldOf(ts).dsn)
	ts.Check(err)
	defer pool.Close()
	log := eventlog.Open(pool, discard())
	defer log.Close()
	until(ts, strings.Join(args, " "), func() bool {
		for e, err := range log.Find(ctx, eventlog.Filter{DeliveryID: args[0], Types: []eventlog.Type{eventlog.Type(args[1])}}) {
			if err == nil && itoa(e.Attempt) == attempt {
				return true
			}
		}
		return false // also before the daemon has migrated
	})
	_, err = projections.New(pool, log, discard()).Await(ctx, patience)
	ts.Check(err)
}

// sql STATEMENT runs a statement on the script's database, as its owner.
func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "sql STATEMENT")
	onDatabase(ts, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, args[0])
		return err
	})
}

// rehash gives the events behind the last hashes theirs.
func cmdRehash(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "rehash")
	onDatabase(ts, func(ctx context.Context, conn *pgx.Conn) error { return samplelog.Rehash(ctx, conn) })
}

func onDatabase(ts *testscript.TestScript, do func(context.Context, *pgx.Conn) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, worldOf(ts).dsn)
	ts.Check(err)
	defer conn.Close(ctx)
	ts.Check(do(ctx, conn))
}

// newserver gives the script a server of its own, with an empty database.
func cmdNewServer(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "newserver")
	w := worldOf(ts)
	w.dsn = w.newServer()
	ts.Setenv("DATABASE_URL", w.dsn)
}

// fill takes all connections of the server that are left.
func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "fill")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := worldOf(ts)
	for {
		conn, err := pgx.Connect(ctx, w.dsn)
		if eventlog.Full(err) {
			return
		}
		ts.Check(err)
		w.idle = append(w.idle, conn)
	}
}

// free TYPE gives them back once the log has an event of the type.
func cmdFree(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "free TYPE")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := worldOf(ts)
	until(ts, "a "+args[0], func() (found bool) {
		ts.Check(w.idle[0].QueryRow(ctx, "select exists (select from events where type = $1)", args[0]).Scan(&found))
		return found
	})
	for _, conn := range w.idle {
		ts.Check(conn.Close(ctx))
	}
	w.idle = nil
}

// processesIn lists the processes that work in a directory.
func processesIn(dir string) []string {
	var found []string
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir+"/") {
			found = append(found, link+" -> "+cwd)
		}
	}
	return found
}

// stopped waits until the read models have noted why they cannot go on.
func cmdStopped(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "stopped")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, worldOf(ts).dsn)
	ts.Check(err)
	defer conn.Close(ctx)
	until(ts, "the read models to stop", func() bool {
		var n int
		ts.Check(conn.QueryRow(ctx, "select count(*) from projections.checkpoints where error <> ''").Scan(&n))
		return n > 0
	})
}
