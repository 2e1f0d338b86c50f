package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
	"unicode"
	"unicode/utf16"

	"golang.org/x/term"
)

// writeJSON prints one object on one line. JSON strings may hold C1 controls
// and bidirectional overrides as they are; here they are escaped.
func writeJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	var b bytes.Buffer
	for _, r := range string(raw) {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default: // JSON has no other way to write these, as tags and the like
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		}
	}
	b.WriteByte('\n')
	_, err = w.Write(b.Bytes())
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

// isTerminal says whether w is a terminal that may get colour and redrawing.
func isTerminal(w io.Writer) bool {
	if u, ok := w.(interface{ Unwrap() io.Writer }); ok {
		w = u.Unwrap()
	}
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
	if !p || c == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
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

// counted is "1 delivery", "2 deliveries".
func counted(n int64, one, more string) string {
	if n == 1 {
		more = one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// clockLayout is how moments are printed: as date --rfc-3339=seconds does, with the
// offset, so that it can be told from another zone's and pasted after --since.
const clockLayout = "2006-01-02 15:04:05-07:00"

// clock is a moment in the reader's zone, to the second.
func clock(t time.Time) string { return t.Local().Format(clockLayout) }

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

func millis(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}
