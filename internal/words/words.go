// Package words owns how numbers, moments, durations and hashes are written for people.
package words

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// ShortCommit is the beginning of a hash, enough to tell it from others.
func ShortCommit(commit string) string {
	return commit[:min(12, len(commit))]
}

// Counted is "1 delivery", "2 deliveries".
func Counted(n int64, one, more string) string {
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

// Shorten cuts a text that would fill the screen.
func Shorten(s string, runes int) string {
	if utf8.RuneCountInString(s) <= runes {
		return s
	}
	return string([]rune(s)[:runes-3]) + "..."
}
