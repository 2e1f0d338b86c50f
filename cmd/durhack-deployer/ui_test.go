package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// dangerous names what could drive a terminal or break a line in s; "" where
// there is nothing.
func dangerous(s string) string {
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			return "invalid UTF-8"
		case unicode.IsControl(r):
			return fmt.Sprintf("control character %U", r)
		case unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs):
			return fmt.Sprintf("format character %U", r)
		}
	}
	return ""
}

// hostile are texts that a sender may choose.
var hostile = []string{
	"", "main", "\x1b[2J\x1b]0;owned\x07", "a\nb\r\nc", "\u202Etxt.exe", "\u2066x\u2069", "\x9b31m", "\u009b31m",
	"<script>alert(1)</script>", "\xff\xfe", "\u2028\u2029", "\U000E0041", "zero\u200bwidth", "\x00", "\x7f",
	"refs/heads/--upload-pack=x", ";$(id)", "\uFFFD", "\ufeffbom", "日本語", "e\u0301", strings.Repeat("long ", 500),
}

func FuzzPrintable(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if bad := dangerous(got); bad != "" {
			t.Errorf("%s in printable(%q) = %q", bad, s, got)
		}
		if dangerous(s) == "" && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) && got != s {
			t.Errorf("printable(%q) = %q: what is harmless must stay", s, got)
		}
		if again := printable(got); again != got {
			t.Errorf("printable(%q) = %q changes again to %q", s, got, again)
		}
		for _, line := range strings.Split(printableLines(s), "\n") {
			if bad := dangerous(line); bad != "" {
				t.Errorf("%s in a line of printableLines(%q)", bad, s)
			}
		}
	})
}

func FuzzWriteJSON(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b strings.Builder
		if err := writeJSON(&b, map[string]string{"ref": s}); err != nil {
			t.Fatal(err)
		}
		line, whole := strings.CutSuffix(b.String(), "\n")
		if bad := dangerous(line); !whole || bad != "" {
			t.Errorf("%s (whole %v) in %q", bad, whole, line)
		}
		var back map[string]string
		if err := json.Unmarshal([]byte(line), &back); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); utf8.ValidString(s) && back["ref"] != want {
			t.Errorf("%q came back as %q", s, back["ref"])
		}
	})
}

// anyText is a text that a sender, a program's output or a person at the
// command line may have put into an event.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(rapid.SampledFrom(hostile), rapid.String(),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) }))
}

func anyEvent(t *rapid.T) eventlog.Event {
	text := anyText()
	draw := func(name string) string { return text.Draw(t, name) }
	assignments := []eventlog.Assignment{{Deployment: draw("slug"), Attempt: 2, Order: eventlog.Order{Branch: draw("branch"), Commit: draw("commit"), Rule: draw("rule")}}}
	code := 3
	steps := []eventlog.Step{{Name: draw("step"), Result: draw("result"), DurationMS: 5}}
	data := rapid.SampledFrom([]eventlog.Data{
		eventlog.Received{Event: draw("event"), Ref: draw("ref"), Repository: draw("repository"), Commit: draw("commit"), Source: eventlog.Source(draw("source"))},
		eventlog.Redelivered{Action: draw("action"), Detail: draw("detail"), Deployments: assignments},
		eventlog.Forwarded{Order: eventlog.Order{Branch: draw("branch"), Commit: draw("commit"), Rule: draw("rule")}},
		eventlog.Voided{Reason: eventlog.Reason(draw("reason")), Detail: draw("detail"), Commit: draw("commit")},
		eventlog.Started{Commit: draw("commit"), PreviousCommit: draw("previous"), Host: draw("host"), Plan: []string{draw("plan"), draw("plan")}, RunLog: draw("log")},
		eventlog.Deployed{Commit: draw("commit"), Steps: steps, RunLog: draw("log")},
		eventlog.Failed{Step: draw("step"), Error: draw("error"), OutputTail: draw("tail"), Signal: draw("signal"), ExitCode: &code, Steps: steps, RunLog: draw("log")},
		eventlog.Interrupted{Detail: draw("detail"), Then: draw("then"), Step: draw("step")},
		eventlog.Replayed{Reason: draw("reason"), Deployments: assignments},
	}).Draw(t, "data")
	raw, err := eventlog.Encode(data)
	if err != nil {
		t.Fatal(err)
	}
	e := eventlog.Event{
		Position: rapid.Int64Min(1).Draw(t, "position"), DeliveryID: draw("delivery"), Type: data.EventType(),
		Attempt: rapid.IntRange(1, 3).Draw(t, "attempt"), Actor: draw("actor"), Data: raw,
	}
	if slug := draw("deployment"); slug != "" {
		e.Deployment = &slug
	}
	if rapid.IntRange(0, 9).Draw(t, "unknown") == 0 {
		e.Type = eventlog.Type(draw("type"))
	}
	return e
}

func TestStoryIsOneHarmlessLineAnEvent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent(t)
		for _, one := range []bool{true, false} {
			line := newStory(false, []string{"web"}, one).line(e)
			if bad := dangerous(line); bad != "" {
				t.Fatalf("%s in %q", bad, line)
			}
			if n := utf8.RuneCountInString(line); n > answer.MaxSummary+3*maxName+60 { // and the position, the clock, the attempt, the gaps
				t.Fatalf("a line of %d characters", n)
			}
		}
	})
}

func TestAnswerIsHarmless(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var events []eventlog.Event
		for range rapid.IntRange(1, 5).Draw(t, "events") {
			events = append(events, anyEvent(t))
		}
		known := map[string]projections.Deployment{}
		story, err := answer.NewStory(anyText().Draw(t, "id"), events, known)
		if err != nil {
			return // an event that this binary does not know: why says so instead
		}
		for slug := range story.State.Parts {
			known[slug] = projections.Deployment{Live: &projections.Mark{Commit: anyText().Draw(t, "live"), DeliveryID: anyText().Draw(t, "by")}}
		}
		var b strings.Builder
		if err := (explanation{w: &b}).tell(story, (&cli{}).command); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(b.String(), "\n") {
			if bad := dangerous(line); bad != "" {
				t.Fatalf("%s in %q", bad, line)
			}
		}
	})
}

func TestTableAlignsWideCells(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	c := &cli{streams: streams{out: &b}}
	table := c.newTable(column{name: "NAME"}, column{name: "STATE"}, column{name: "NOTE"})
	table.row("web", "live", "")
	table.row("日本語", "e\u0301te\u0301", "wide, and composed of two")
	table.paintedRow(1, red, "a\tb", "\x1b[31m", "escaped")
	if err := table.flush(); err != nil {
		t.Fatal(err)
	}
	want := "NAME    STATE     NOTE\n" +
		"web     live\n" +
		"日本語  e\u0301te\u0301       wide, and composed of two\n" +
		`a\tb    \x1b[31m  escaped` + "\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestPainter(t *testing.T) {
	t.Parallel()
	if got := painter(true).paint(red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("on a terminal: %q", got)
	}
	if got := painter(true).paint("", "x"); got != "x" {
		t.Errorf("without a colour: %q", got)
	}
	if got := painter(false).paint(red, "x"); got != "x" {
		t.Errorf("into a pipe: %q", got)
	}
}

func TestTableFits(t *testing.T) {
	t.Parallel()
	const a, b = "7a1f0000-0000-4000-8000-000000000001", "7a1f0000-0fff-4000-8000-000000000002"
	long := strings.Repeat("a reason, 理由, ", 10)
	rows := [][]string{
		{"web", a, "ann", "failed", "2026-01-31 15:04:05+00:00", "it failed"},
		{"web", b + " #2", "ann", "failed", "2026-01-31 15:04:05+00:00", long},
		{strings.Repeat("slug-", 12), "-", strings.Repeat("ann", 12), "live", "-", ""},
	}
	for _, test := range []struct {
		name string
		wide bool
		rows [][]string
		want string // the line of the second row
	}{
		{"whole", false, [][]string{{"web", "a", "ann", "ok", "-", "x"}, {"web", "b", "bo", "failed", "-", "y"}}, "web   b   bo   failed  -   y"},
		{"short", false, rows[:1], ""},
		{"shorter", false, rows[:2], "web   7a1f0000-0f #2  failed  2026-01-31 15:04:05+00:00  a reason, 理由, a"},
		{"even so", false, rows, ""},
		{"wide", true, rows, ""},
	} {
		var out strings.Builder
		c := &cli{streams: streams{out: &out}, wide: test.wide}
		table := c.newTable(column{name: "SLUG"}, column{name: "ID", id: true}, column{name: "BY", drop: 1}, column{name: "STATE"},
			column{name: "AT"}, column{name: "WHY", text: true})
		for _, row := range test.rows {
			table.row(row...)
		}
		if err := table.flush(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		// No word of the prose is lost.
		if words := strings.Join(strings.Fields(out.String()), ""); len(test.rows) > 1 && test.rows[1][5] == long && strings.Count(words, "areason,理由,") != 10 {
			t.Errorf("%s: prose is lost:\n%s", test.name, out.String())
		}
		for _, line := range lines {
			if !test.wide && columns(line) > tableWidth {
				t.Errorf("%s: %d columns: %s", test.name, columns(line), line)
			}
		}
		if test.want != "" && lines[2] != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, lines[2], test.want)
		}
		if test.wide && !(strings.Contains(lines[2], b+" #2") && strings.HasSuffix(lines[2], strings.TrimSpace(long))) {
			t.Errorf("%s is not whole: %s", test.name, lines[2])
		}
	}
}

func TestProgressLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		done, total, did int64
		took             time.Duration
		want             string
	}{
		{0, 0, 0, 0, "0 events"},
		{0, 1000, 0, time.Second, "0 of 1000 events (0%)"},
		{10, 1000, 10, time.Millisecond, "10 of 1000 events (1%)"},
		{250_000, 1_000_000, 250_000, 3 * time.Second, "250000 of 1000000 events (25%), 83333/s, 9s left"},
		{500, 1000, 100, time.Second, "500 of 1000 events (50%), 100/s, 5s left"},
		{1000, 1000, 1000, time.Second, "1000 of 1000 events (100%), 1000/s"},
		{1200, 1000, 1200, time.Second, "1200 of 1000 events (120%), 1200/s"},
		{1, 1_000_000, 1, time.Second, "1 of 1000000 events (0%), 1/s, 277h46m39s left"},
	} {
		if got := progressLine("events", test.done, test.total, test.did, test.took); got != test.want {
			t.Errorf("%d of %d: %q, want %q", test.done, test.total, got, test.want)
		}
	}
}

// A pipe stands for the journal where JOURNAL_STREAM names it, and only there.
func TestLoggerTellsTheJournalPriorities(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(write.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	c := &cli{streams: streams{err: write}}
	lines := bufio.NewScanner(read)
	log := func(stream string, level slog.Level) string {
		t.Setenv("JOURNAL_STREAM", stream)
		c.logger(slog.LevelDebug).Log(t.Context(), level, "m")
		lines.Scan()
		return lines.Text()
	}
	its := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: "<7>level=DEBUG msg=m",
		slog.LevelInfo:  "level=INFO msg=m",
		slog.LevelWarn:  "<4>level=WARN msg=m",
		slog.LevelError: "<3>level=ERROR msg=m",
	} {
		if got := log(its, level); got != want {
			t.Errorf("to the journal: %q, want %q", got, want)
		}
	}
	for _, stream := range []string{"", "1:2"} {
		if got := log(stream, slog.LevelError); got[:5] != "time=" {
			t.Errorf("with JOURNAL_STREAM=%q to somewhere else: %q, want a line with its time", stream, got)
		}
	}
}

func TestAbbreviations(t *testing.T) {
	t.Parallel()
	const one, other = "01M8MBP4KDTY5C80H3PG61FGHF", "01M8MBP4ZMG1Y6NNN9RFR48111" // of one second
	for _, c := range []struct {
		ids  []string
		want string
	}{
		{[]string{"88b318ac45fd0595c0985a6e1a17c6abb17c51ff"}, "88b318ac"},
		{[]string{"push-1", "push-2"}, "push-1"},
		{[]string{one}, one[:12]}, // what the table does not have may be of the same second
		{[]string{one, other}, one[:12]},
		{[]string{one, one[:13] + other[13:]}, one[:14]},
		{[]string{"7a1f0001-0000-4000-8000-000000000002", "7a1f0001-0000-4000-8000-000000000003"}, "7a1f0001-0000-4000-8000-000000000002"},
	} {
		if got := abbreviations(shortID, c.ids...)(c.ids[0]); got != c.want {
			t.Errorf("%q is shortened to %q, want %q", c.ids, got, c.want)
		}
	}
}
