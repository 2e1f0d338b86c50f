// Package words owns how numbers, moments, durations, hashes and what others wrote are written for
// people, and JSON so that it drives no terminal.
package words

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON encodes a value in one line. JSON strings may hold C1 controls and bidirectional
// overrides as they are; here they are escaped.
func JSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	var b bytes.Buffer
	b.Grow(len(raw) + 1)
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
	return b.Bytes(), nil
}

// ShortCommit is the beginning of a hash, enough to tell it from others.
func ShortCommit(commit string) string {
	return commit[:min(12, len(commit))]
}

// Counted is "1 delivery", "2 deliveries".
func Counted[N int | int64](n N, one, more string) string {
	if n == 1 {
		more = one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// ClockLayout is how moments are printed: as date --rfc-3339=seconds does, with the
// offset, so that it can be told from another zone's and pasted after --since.
const ClockLayout = "2006-01-02 15:04:05-07:00"

// Clock is a moment in the reader's zone, to the second.
func Clock(t time.Time) string { return t.Local().Format(ClockLayout) }

// UTC is a moment for those who are anywhere, to the minute.
func UTC(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Millis is a short duration.
func Millis(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}

// Span is a duration as a person says it: in seconds while it is short.
func Span(d time.Duration) string {
	if d < time.Minute {
		return Millis(d.Milliseconds())
	}
	return d.Round(time.Second).String()
}

// Canceled says by whom something was canceled, and why.
func Canceled(by, reason string) string {
	if reason == "" {
		return "canceled by " + by
	}
	return "canceled by " + by + ": " + reason
}

// OneLine is a text from outside in one line that does nothing to a terminal.
func OneLine(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "\uFFFD"), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
}

// Cut bounds a text to so many bytes, between two characters. Where it cuts, end comes
// behind what is left, and counts.
func Cut(text string, most int, end string) string {
	if len(text) <= most {
		return text
	}
	for most = max(0, most-len(end)); most > 0 && !utf8.RuneStart(text[most]); most-- {
	}
	return text[:most] + end
}

// Shorten cuts a text that would fill the screen.
func Shorten(s string, runes int) string {
	if utf8.RuneCountInString(s) <= runes {
		return s
	}
	return string([]rune(s)[:runes-3]) + "..."
}
