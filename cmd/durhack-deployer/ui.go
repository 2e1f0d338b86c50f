package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"golang.org/x/text/width"

	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// writeJSON prints one object on one line.
func writeJSON(w io.Writer, v any) error {
	raw, err := words.JSON(v)
	if err == nil {
		_, err = w.Write(append(raw, '\n'))
	}
	return err
}

// writeJSONLines writes a list: one object a line.
func writeJSONLines[T any](w io.Writer, rows []T) error {
	for _, row := range rows {
		if err := writeJSON(w, row); err != nil {
			return err
		}
	}
	return nil
}

// terminal is the terminal that w writes to, which may get colour and redrawing,
// or nil.
func terminal(w io.Writer) *os.File {
	if u, ok := w.(interface{ Unwrap() io.Writer }); ok {
		w = u.Unwrap()
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return f
	}
	return nil
}

func isTerminal(w io.Writer) bool { return terminal(w) != nil }

type colour string

const (
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	blue   colour = "34"
	grey   colour = "90"
	bold   colour = "1"
)

// painter colours text for a terminal, and leaves it alone for a pipe or when
// NO_COLOR is set (no-color.org).
type painter bool

func painterFor(w io.Writer) painter { return painter(isTerminal(w) && os.Getenv("NO_COLOR") == "") }

func (p painter) paint(c colour, s string) string {
	if !p || c == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ago is a duration as a person says it.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm ago", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// tableWidth is how wide a table may be, unless the terminal is wider.
const tableWidth = 80

// column is a column of a table, and what may become of it where the table is too
// wide. --wide leaves everything as it is, and so does JSON.
type column struct {
	name string
	id   bool // IDs or hashes, of which a unique beginning is enough
	text bool // prose, which may go on in the next line
	drop int  // those with the highest number are left out first; with 0 never
	most int  // how wide it may be; 0 is as it likes
}

// minText is how narrow prose may be before a column is left out.
const minText = 24

// table prints aligned rows; every cell is escaped. Colours are added after
// the alignment, which text/tabwriter cannot do.
type table struct {
	w       io.Writer
	limit   int // 0 is none
	columns []column
	rows    [][]cell
}

type cell struct {
	text   string
	colour colour
}

func (c *cli) newTable(columns ...column) *table {
	t := &table{w: c.out, columns: columns}
	if !c.wide {
		t.limit = tableWidth
		if f := terminal(c.out); f != nil {
			if n, _, err := term.GetSize(int(f.Fd())); err == nil {
				t.limit = max(t.limit, n)
			}
		}
	}
	names := make([]string, len(columns))
	for i, col := range columns {
		names[i] = col.name
	}
	t.row(names...)
	return t
}

func (t *table) row(cells ...string) { t.paintedRow(-1, "", cells...) }

// paintedRow is row with one cell in colour.
func (t *table) paintedRow(column int, c colour, cells ...string) {
	row := make([]cell, len(cells))
	for i, text := range cells {
		row[i].text = printable(text)
		if i == column {
			row[i].colour = c
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) flush() error {
	if t.limit > 0 {
		t.fit()
	}
	widths := t.widths()
	p := painterFor(t.w)
	for _, row := range t.rows {
		wrapped := make([][]string, len(row))
		height := 1
		for i, c := range row {
			wrapped[i] = []string{c.text}
			if t.columns[i].text {
				wrapped[i] = wrap(c.text, widths[i])
			}
			height = max(height, len(wrapped[i]))
		}
		for n := range height {
			line, space := "", 0
			for i, c := range row {
				if n < len(wrapped[i]) && wrapped[i][n] != "" {
					line += strings.Repeat(" ", space) + p.paint(c.colour, wrapped[i][n])
					space = -columns(wrapped[i][n])
				}
				space += widths[i] + gap
			}
			if _, err := fmt.Fprintln(t.w, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// gap is the space between two columns.
const gap = 2

func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], columns(c.text))
		}
	}
	for i, col := range t.columns {
		if col.most > 0 {
			widths[i] = min(widths[i], col.most)
		}
	}
	return widths
}

// fit makes the table as narrow as it must be: it cuts IDs, leaves out columns, and
// breaks prose into lines. Lines that are still too wide are cut.
func (t *table) fit() {
	t.abbreviate(longID)
	if t.excess(minText) > 0 {
		t.abbreviate(shortID)
	}
	for t.excess(minText) > 0 {
		least := 0
		for i, col := range t.columns {
			if col.drop > t.columns[least].drop {
				least = i
			}
		}
		if t.columns[least].drop == 0 {
			break
		}
		t.columns = slices.Delete(t.columns, least, least+1)
		for i := range t.rows {
			t.rows[i] = slices.Delete(t.rows[i], least, least+1)
		}
	}
	for _, prose := range []bool{true, false} {
		for range t.columns {
			over, widths, widest := t.excess(math.MaxInt), t.widths(), -1
			for i, col := range t.columns {
				if col.text == prose && (widest < 0 || widths[i] > widths[widest]) {
					widest = i
				}
			}
			if over <= 0 || widest < 0 {
				break
			}
			t.columns[widest].most = max(shortID, widths[widest]-over)
			for i := range t.rows {
				if c := &t.rows[i][widest]; !prose {
					c.text = cut(c.text, t.columns[widest].most)
				}
			}
		}
	}
}

// excess is by how much the table is too wide, with prose no wider than that.
func (t *table) excess(prose int) int {
	over := -gap - t.limit
	for i, w := range t.widths() {
		if t.columns[i].text {
			w = min(w, prose)
		}
		over += w + gap
	}
	return over
}

// abbreviate cuts the IDs, each column's to the same length.
func (t *table) abbreviate(atLeast int) {
	for i, col := range t.columns {
		if !col.id {
			continue
		}
		var ids []string
		for _, row := range t.rows[1:] {
			id, _, _ := strings.Cut(row[i].text, " ")
			ids = append(ids, id)
		}
		short := abbreviations(atLeast, ids...)
		for _, row := range t.rows[1:] {
			id, attempt, more := strings.Cut(row[i].text, " ")
			if row[i].text = short(id); more {
				row[i].text += " " + attempt
			}
		}
	}
}

const (
	// longID is how much of an ID is shown where there is room, shortID where not.
	longID, shortID = 12, 8
	// shortULID is shown of an ULID at least: its first ten characters are the time, the
	// eight of shortID that of a whole second.
	shortULID = 12
)

// abbreviations shortens IDs, all to one length at which they differ.
func abbreviations(atLeast int, ids ...string) func(string) string {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	n := atLeast
	for i := 1; i < len(ids); i++ {
		same := 0
		for same < min(len(ids[i-1]), len(ids[i])) && ids[i-1][same] == ids[i][same] {
			same++
		}
		n = max(n, same+1)
	}
	return func(id string) string {
		n := n
		if _, err := ulid.ParseStrict(id); err == nil {
			n = max(n, shortULID)
		}
		return strings.ToValidUTF8(id[:min(n, len(id))], "")
	}
}

// pad fills s up to n columns of a terminal.
func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-columns(s))) }

// columns is how many columns of a terminal s takes.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me): // drawn over the one before
		case width.LookupRune(r).Kind() == width.EastAsianWide, width.LookupRune(r).Kind() == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}

// cut shortens s to n columns of a terminal.
func cut(s string, n int) string {
	if columns(s) <= n {
		return s
	}
	for s != "" && columns(s)+len("...") > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s + "..."
}

// wrap breaks s into lines of at most n columns, between words where it can.
func wrap(s string, n int) []string {
	lines, at := []string{""}, 0
	for _, word := range strings.SplitAfter(s, " ") {
		if at > 0 && at+columns(strings.TrimRight(word, " ")) > n {
			lines[len(lines)-1] = strings.TrimRight(lines[len(lines)-1], " ")
			lines, at = append(lines, ""), 0
		}
		for _, r := range word {
			if w := columns(string(r)); at+w > n && r != ' ' {
				lines, at = append(lines, ""), 0
			}
			lines[len(lines)-1] += string(r)
			at += columns(string(r))
		}
	}
	lines[len(lines)-1] = strings.TrimRight(lines[len(lines)-1], " ")
	return lines
}

func orMillis(ms *int64) string {
	if ms == nil {
		return "-"
	}
	return words.Span(time.Duration(*ms) * time.Millisecond)
}

// tell prints texts as lines of one kind.
func tell(w io.Writer, kind string, texts []string) {
	for _, text := range texts {
		fmt.Fprintf(w, "%s: %s\n", kind, printable(text))
	}
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func attemptTail(attempt int) string {
	if attempt > 1 {
		return fmt.Sprintf(" #%d", attempt)
	}
	return ""
}

func outcomeColour(outcome string) colour {
	switch projections.Outcome(outcome) {
	case projections.OutcomeDeployed:
		return green
	case projections.OutcomeFailed:
		return red
	case projections.OutcomeVoided, projections.OutcomeInterrupted:
		return yellow
	}
	return blue
}

func statusColour(status string) colour {
	switch status {
	case string(projections.StatusLive):
		return green
	case string(projections.StatusFailed):
		return red
	case string(projections.StatusRunning), string(projections.StatusPending):
		return blue
	}
	return grey
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Everything that is printed may hold payload text. Outside JSON it goes
// through printable, so that it can neither break a line nor drive a terminal.

// printable escapes what is not a printable character.
func printable(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	return b.String()
}

// printableLines keeps line breaks, for text that is shown as a block.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(strings.ReplaceAll(strings.TrimRight(line, "\r"), "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// quoteArgv shows where each argument begins and ends, as a shell would read it.
func quoteArgv(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}

// ask asks on a terminal. Without one there is nobody to ask: a wrong call.
func (c *cli) ask(question, elsewhere string) (answer string, err error) {
	in, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) || !isTerminal(c.err) {
		return "", usagef("%s", elsewhere)
	}
	fmt.Fprint(c.err, question)
	answer, err = bufio.NewReader(in).ReadString('\n')
	if errors.Is(err, io.EOF) {
		fmt.Fprintln(c.err)
	} else if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return strings.TrimSpace(answer), nil
}

// redraw is how often the progress line is drawn.
const redraw = 100 * time.Millisecond

// progress shows how far something is, how fast it goes and how long it will
// take, on a terminal, and nothing elsewhere. what names what is counted.
func (c *cli) progress(what string) (show func(done, total int64), finish func()) {
	if !isTerminal(c.err) {
		return func(int64, int64) {}, func() {}
	}
	begin, drawn := time.Now(), time.Time{}
	var first int64 = -1
	return func(done, total int64) {
			if first < 0 {
				first, begin = done, time.Now()
			}
			if now := time.Now(); total > 0 && done >= total || now.Sub(drawn) >= redraw {
				drawn = now
				fmt.Fprintf(c.err, "\r%s\x1b[K", progressLine(what, done, total, done-first, now.Sub(begin)))
			}
		},
		func() { fmt.Fprint(c.err, "\r\x1b[K") }
}

// progressLine is "250000 of 1000000 events folded (25%), 83000/s, 9s left". did
// is how many of the done were done in the time that was taken.
func progressLine(what string, done, total, did int64, took time.Duration) string {
	line := fmt.Sprintf("%d %s", done, what)
	if total > 0 {
		line = fmt.Sprintf("%d of %d %s", done, total, what)
		line += fmt.Sprintf(" (%d%%)", 100*done/total)
	}
	rate := float64(did) / took.Seconds()
	if took < redraw || rate <= 0 {
		return line // too early to tell
	}
	line += fmt.Sprintf(", %.0f/s", rate)
	if left := total - done; left > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return line
}

// logger writes to standard error: text for a terminal or a file, and for systemd's
// journal, which has its own times, with priorities instead.
func (c *cli) logger(level slog.Level) *slog.Logger {
	if c.verbose {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	w := c.err
	if isJournal(w) {
		w = journalWriter{w}
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// isJournal says whether w is the pipe to systemd's journal: JOURNAL_STREAM names
// its device and inode, and is inherited also where w leads elsewhere.
func isJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journalWriter puts the priority of sd-daemon(3) before each line that is not of
// level INFO, which is what the journal takes a line without one for. Each Write
// is one line, and without a time begins with its level.
type journalWriter struct{ io.Writer }

func (j journalWriter) Write(p []byte) (int, error) {
	for level, priority := range map[slog.Level]string{slog.LevelError: "<3>", slog.LevelWarn: "<4>", slog.LevelDebug: "<7>"} {
		if bytes.HasPrefix(p, []byte("level="+level.String())) {
			n, err := j.Writer.Write(append([]byte(priority), p...))
			return max(0, n-len(priority)), err
		}
	}
	return j.Writer.Write(p)
}

// command is a call of this program, with the configuration of this call, that
// can be copied to a shell as it is.
func (c *cli) command(args ...string) string {
	argv := append(self(), args...)
	for _, path := range c.configPaths {
		argv = append(argv, "--config", path)
	}
	return quoteArgv(argv)
}

// self is how the program was called.
func self() []string {
	const name = "durhack-deployer"
	exe, err := os.Executable()
	if err != nil {
		return []string{name}
	}
	if strings.Contains(exe, "go-build") { // go run, from the root of the repository
		if _, err := os.Stat("cmd/" + name + "/main.go"); err == nil {
			return []string{"go", "run", "./cmd/" + name}
		}
		return []string{exe}
	}
	if found, err := exec.LookPath(name); err == nil && same(found, exe) {
		return []string{name}
	}
	if strings.Contains(os.Args[0], "/") {
		return []string{os.Args[0]}
	}
	return []string{exe}
}

func same(a, b string) bool {
	a, errA := filepath.EvalSymlinks(a)
	b, errB := filepath.EvalSymlinks(b)
	return errA == nil && errB == nil && a == b
}
