package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

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
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
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

// writeJSON prints one object on one line. JSON strings may hold C1 controls
// and bidirectional overrides as they are; here they are escaped.
func writeJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	var b bytes.Buffer
	for _, r := range string(raw) {
		if r >= 0x7f && !unicode.IsPrint(r) && r <= 0xffff {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	b.WriteByte('\n')
	_, err = w.Write(b.Bytes())
	return err
}

// isTerminal says whether w is a terminal that may get colour and redrawing.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

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
	if !p {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// table prints aligned rows; every cell is escaped. Colours are added after
// the alignment, which text/tabwriter cannot do.
type table struct {
	w    io.Writer
	rows [][]cell
}

type cell struct {
	text   string
	colour colour
}

func newTable(w io.Writer, header ...string) *table {
	t := &table{w: w}
	t.row(header...)
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
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	p := painterFor(t.w)
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			text := c.text
			if c.colour != "" {
				text = p.paint(c.colour, text)
			}
			line.WriteString(text)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		if _, err := fmt.Fprintln(t.w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

func shortCommit(commit string) string {
	return commit[:min(12, len(commit))]
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// clock is a moment in the reader's zone, to the second.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

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
