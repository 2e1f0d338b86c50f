package words

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxAgo is how far back "30d" may reach, in days: a time that the database can hold.
const maxAgo = 100 * 366

// TimeForms is what a time may look like, for help texts and errors.
const TimeForms = `2026-01-31, "2026-01-31 15:04", RFC 3339, today, yesterday, "yesterday 15:04", 15:04 (when it last was), or how long ago: 90m, 30d, 2w`

// clockLayouts are what a time of day may look like.
var clockLayouts = []string{"15:04:05", "15:04"}

// ParseTime reads what people type for a moment, and what this program prints
// for one: with an offset it is that, without one it is local.
func ParseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{
		time.RFC3339Nano, ClockLayout, "2006-01-02 15:04Z07:00", "2006-01-02T15:04Z07:00",
		"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly,
	} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	day, rest, _ := strings.Cut(strings.ToLower(s), " ")
	back, named := map[string]int{"today": 0, "yesterday": 1}[day]
	if !named {
		rest = s
	}
	if rest == "" && named {
		return onDay(now, back, time.Time{}), nil
	}
	for _, layout := range clockLayouts {
		clock, err := time.Parse(layout, rest)
		if err != nil {
			continue
		}
		t := onDay(now, back, clock)
		if !named && t.After(now) { // at two in the morning, 22:00 was yesterday
			t = onDay(now, 1, clock)
		}
		return t, nil
	}
	if s == "now" {
		return now, nil
	}
	if t, ok := timeAgo(s, now); ok {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time; write %s", s, TimeForms)
}

// onDay is a time of day, so many days before now's.
func onDay(now time.Time, back int, clock time.Time) time.Time {
	return time.Date(now.Year(), now.Month(), now.Day()-back, clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
}

// timeAgo reads how long ago: weeks and days, which are those of the calendar, and
// then a Go duration, as 2w, 1d12h or 90m.
func timeAgo(s string, now time.Time) (time.Time, bool) {
	days := 0
	for _, unit := range []struct {
		name string
		days int
	}{{"w", 7}, {"d", 1}} {
		number, rest, found := strings.Cut(s, unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return time.Time{}, false
		}
		days += int(n) * unit.days
		if s = rest; s == "" {
			s = "0s"
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || days > maxAgo || strings.HasPrefix(s, "+") {
		return time.Time{}, false
	}
	return now.AddDate(0, 0, -days).Add(-d), true
}

// UntilForms is what the end of something may look like.
const UntilForms = `2026-01-31, "2026-01-31 15:04", RFC 3339, 15:04 (when it next is), or in how long: 90m, 3d, 2w`

// ParseUntil reads a moment that is still to come.
func ParseUntil(s string, now time.Time) (time.Time, error) {
	t, ago := timeAgo(s, now)
	if ago {
		t = now.Add(now.Sub(t))
	} else {
		var err error
		if t, err = ParseTime(s, now); err != nil {
			return t, fmt.Errorf("%q is not a time; write %s", s, UntilForms)
		}
		for _, layout := range clockLayouts {
			if clock, err := time.Parse(layout, s); err == nil { // as it next is
				if t = onDay(now, 0, clock); !t.After(now) {
					t = onDay(now, -1, clock)
				}
			}
		}
	}
	if !t.After(now) {
		return t, fmt.Errorf("%s is over already; write a time that is still to come", Clock(t))
	}
	return t, nil
}
