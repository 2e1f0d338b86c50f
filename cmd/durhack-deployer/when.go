package main

import (
	"strconv"
	"strings"
	"time"
)

// maxDays is how far back "30d" may reach: a time that the database can hold.
const maxDays = 100 * 366

// timeUsage ends the help text of every flag that takes a time.
const timeUsage = "`TIME`: 2026-01-31, \"2026-01-31 15:04\", RFC 3339, or how long ago: 90m, 30d"

// parseTime reads what people type for a moment: RFC 3339, a local date, a
// local date and time, or how long ago ("90m", "30d").
func parseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 32); err == nil && n <= maxDays {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usagef("%q is not a time; write 2026-01-31, \"2026-01-31 15:04\", 2026-01-31T15:04:05Z, or how long ago: 90m, 30d", s)
}

// timeFlag is a flag's text and where its time goes.
type timeFlag struct {
	name, text string
	to         *time.Time
}

// parseTimes reads those of the flags that were given.
func parseTimes(now time.Time, flags ...timeFlag) error {
	for _, f := range flags {
		if f.text == "" {
			continue
		}
		t, err := parseTime(f.text, now)
		if err != nil {
			return usagef("--%s: %w", f.name, err)
		}
		*f.to = t
	}
	return nil
}
