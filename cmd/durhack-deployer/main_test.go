package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// suite stops the shared Postgres after the tests of this package.
type suite struct{ m *testing.M }

func (s suite) Run() int { return pgtest.Main(s.m) }

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"durhack-deployer": main})
}

// TestCommands runs testdata/*.txtar, a session at a shell each: in an empty
// directory with the files of the script, its own database in DATABASE_URL,
// and the commands below. With UPDATE_SCRIPTS=1 in the environment, what cmp
// finds to be different is written into the scripts.
func TestCommands(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		WorkdirRoot:         t.TempDir(), // testscript's own stays behind when -run chooses some scripts
		Setup:               setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		ContinueOnError:     true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"start":    cmdStart,
			"halt":     cmdHalt,
			"repo":     cmdRepo,
			"commit":   cmdCommit,
			"push":     cmdPush,
			"await":    cmdAwait,
			"sql":      cmdSQL,
			"rehash":   cmdRehash,
			"stopped":  cmdStopped,
			"tidy":     cmdTidy,
			"oneline":  cmdOneline,
			"fits":     cmdFits,
			"leftover": cmdLeftover,
			"wrong":    cmdWrong,
			"code":     cmdCode,

			"newdatabase": cmdNewDatabase,
			"newserver":   cmdNewServer,
			"fill":        cmdFill,
			"free":        cmdFree,
			"waitfor":     cmdWaitFor,
		},
	})
}

func setup(env *testscript.Env) error {
	w := &world{daemons: map[string]*running{}}
	env.Values[worldKey{}] = w
	env.Defer(w.end)
	w.newDatabase = func() string { return pgtest.DSN(env.T().(testing.TB)) } // Run's T is a testing.TB, by its documentation
	w.newServer = func() string { return pgtest.NewServer(env.T().(testing.TB)).DSN() }
	w.dsn = w.newDatabase()
	// A socket of Postgres must be in a short path, which the script's own is not.
	tmp, err := os.MkdirTemp("", "dd-")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(tmp) })
	for key, value := range map[string]string{
		"TMPDIR": tmp, "DATABASE_URL": w.dsn, "TZ": "UTC", "NO_COLOR": "", "ESC": "\x1b",
		// With fixed names and times, commits have the same hash in every run.
		"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.DevNull,
		"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
		"GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.com", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
	} {
		env.Setenv(key, value)
	}
	env.Setenv("DEPLOYER", filepath.Join(filepath.SplitList(env.Getenv("PATH"))[0], "durhack-deployer"))
	// The private Postgres of `demo` may run as a user who has to get there.
	for _, dir := range []string{filepath.Dir(filepath.Dir(env.WorkDir)), filepath.Dir(env.WorkDir), env.WorkDir, tmp} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
	}
	// Paths in a configuration are absolute; scripts write $WORK.
	files, err := filepath.Glob(filepath.Join(env.WorkDir, "*", "*.toml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "$WORK", env.WorkDir)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tidied are the parts of an output that differ from run to run.
var tidied = []struct {
	old *regexp.Regexp
	new string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d`), "2026-01-01 12:00:00+00:00"},
	{regexp.MustCompile(` +\+\d+\.\d\ds  `), "    +0.00s  "},
	{regexp.MustCompile(`(^|[ (]) *\d+(\.\d)? m?s\b`), "${1}0 ms"},
	{regexp.MustCompile(`\b01[0-9A-HJKMNP-TV-Z]{24}\b`), "01ABCDEFGHJKMNPQRSTVWXYZ00"},
	{regexp.MustCompile(`\b01[0-9A-HJKMNP-TV-Z]{6}\b`), "01ABCDEF"},
	{regexp.MustCompile(`durhack-deployer-demo-\d+`), "durhack-deployer-demo-1"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:80"},
	{regexp.MustCompile(`\bgo1\.[0-9.]+\S* \w+/\w+`), "GOVERSION"},
}

// tidy FILE writes the last standard output to FILE, for cmp, with the times,
// durations, generated IDs, directories and names of this run replaced.
func cmdTidy(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "tidy FILE")
	text := ts.ReadFile("stdout")
	for _, t := range tidied {
		text = t.old.ReplaceAllString(text, t.new)
	}
	host, err := os.Hostname()
	ts.Check(err)
	text = strings.ReplaceAll(text, ts.Getenv("WORK"), "$WORK")
	text = strings.ReplaceAll(text, ts.Getenv("TMPDIR"), "$TMPDIR")
	text = strings.ReplaceAll(text, "on "+host+":", "on HOST:")
	text = strings.ReplaceAll(text, "by "+actor(), "by USER")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// oneline N [PATTERN] says that standard output has N lines, all of which match
// the pattern, and no character that could drive a terminal.
func cmdOneline(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 1 && len(args) <= 2, "oneline N [PATTERN]")
	out := ts.ReadFile("stdout")
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if out == "" {
		lines = nil
	}
	if got := len(lines); args[0] != itoa(got) {
		ts.Fatalf("%d lines, not %s:\n%s", got, args[0], out)
	}
	for _, line := range lines {
		if len(args) == 2 {
			matched, err := regexp.MatchString(args[1], line)
			ts.Check(err)
			if !matched {
				ts.Fatalf("no match for %s: %s", args[1], line)
			}
		}
		if bad := dangerous(line); bad != "" {
			ts.Fatalf("%s in %q", bad, line)
		}
	}
}

// fits says that no line of standard output is wider than a terminal of 80 columns.
func cmdFits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "fits")
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if line = strings.TrimSuffix(line, "\n"); columns(line) > tableWidth {
			ts.Fatalf("%d columns: %s", columns(line), line)
		}
	}
}

// wrong PATTERN [ARG...] runs durhack-deployer with the arguments and wants the
// exit code 2, and a first line of error that matches. $ESC stands for an escape character.
func cmdWrong(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "wrong PATTERN [ARG...]")
	err := ts.Exec("durhack-deployer", args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
		ts.Fatalf("%v, not exit status %d", err, exitUsage)
	}
	text := ts.ReadFile("stderr")
	if !regexp.MustCompile(`(?m)^durhack-deployer: ` + args[0]).MatchString(text) {
		ts.Fatalf("no match for %q:\n%s", args[0], text)
	}
	if !strings.Contains(text, "\nhint: ") {
		ts.Fatalf("no hint:\n%s", text)
	}
}

// newdatabase gives the script another database, an empty one.
func cmdNewDatabase(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "newdatabase")
	w := worldOf(ts)
	w.dsn = w.newDatabase()
	ts.Setenv("DATABASE_URL", w.dsn)
}

// code N [ARG...] runs durhack-deployer with the arguments and wants that exit
// code, with nothing on standard error.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "code N [ARG...]")
	err := ts.Exec("durhack-deployer", args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v, not exit status %s", err, args[0])
	}
	if text := ts.ReadFile("stderr"); text != "" {
		ts.Fatalf("standard error:\n%s", text)
	}
}

// waitfor PATTERN [TEXT] waits until a file of that name exists, with that text.
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 1 || len(args) == 2), "waitfor PATTERN [TEXT]")
	until(ts, strings.Join(args, " with "), func() bool {
		found, err := filepath.Glob(ts.MkAbs(args[0]))
		ts.Check(err)
		return len(found) > 0 && (len(args) == 1 || strings.Contains(ts.ReadFile(found[0]), args[1]))
	})
}

// leftover says that a demo has left a directory; ! leftover that it has left
// neither a directory nor, once it has had time to end, a process.
func cmdLeftover(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 0, "leftover")
	dirs, err := filepath.Glob(filepath.Join(ts.Getenv("TMPDIR"), "durhack-deployer-demo-*"))
	ts.Check(err)
	if found := len(dirs) > 0; found == neg {
		ts.Fatalf("left over: %v", dirs)
	}
	if neg {
		until(ts, "the processes of the demo to end", func() bool { return len(processesIn(ts.Getenv("TMPDIR"))) == 0 })
	}
}
