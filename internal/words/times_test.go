package words

import (
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("here", 2*60*60)
	now := time.Date(2026, 3, 31, 12, 30, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"2026-01-31":                time.Date(2026, 1, 31, 0, 0, 0, 0, zone),
		"2026-01-31 15:04":          time.Date(2026, 1, 31, 15, 4, 0, 0, zone),
		"2026-01-31T15:04":          time.Date(2026, 1, 31, 15, 4, 0, 0, zone),
		"2026-01-31 15:04:05":       time.Date(2026, 1, 31, 15, 4, 5, 0, zone),
		"2026-01-31T15:04:05":       time.Date(2026, 1, 31, 15, 4, 5, 0, zone),
		"2026-01-31T15:04:05Z":      time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC),
		"2026-01-31T15:04:05-05:00": time.Date(2026, 1, 31, 20, 4, 5, 0, time.UTC),
		"2026-01-31T15:04:05.25Z":   time.Date(2026, 1, 31, 15, 4, 5, 250e6, time.UTC),
		"90m":                       now.Add(-90 * time.Minute),
		"1h30m":                     now.Add(-90 * time.Minute),
		"0s":                        now,
		"0d":                        now,
		"31d":                       time.Date(2026, 2, 28, 12, 30, 0, 0, zone),
		"2w":                        time.Date(2026, 3, 17, 12, 30, 0, 0, zone),
		"1w2d12h":                   time.Date(2026, 3, 22, 0, 30, 0, 0, zone),
		"now":                       now,
		"today":                     time.Date(2026, 3, 31, 0, 0, 0, 0, zone),
		"Yesterday":                 time.Date(2026, 3, 30, 0, 0, 0, 0, zone),
		"yesterday 15:04":           time.Date(2026, 3, 30, 15, 4, 0, 0, zone),
		"today 09:00:30":            time.Date(2026, 3, 31, 9, 0, 30, 0, zone),
		"12:30":                     now,
		"9:05":                      time.Date(2026, 3, 31, 9, 5, 0, 0, zone),
		"15:00":                     time.Date(2026, 3, 30, 15, 0, 0, 0, zone), // it is not 15:00 yet today
		"2026-01-31 15:04:05-05:00": time.Date(2026, 1, 31, 20, 4, 5, 0, time.UTC),
		"2026-01-31 15:04+00:00":    time.Date(2026, 1, 31, 15, 4, 0, 0, time.UTC),
		Clock(now):                  now,
	} {
		got, err := ParseTime(text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "x", "d", "-1d", "+1d", "1.5d", "d1", "1d1", "-5m", "5", "99999999d", "99999999999999999999d", "999999999h",
		"2026-13-01", "2026-02-30", "2026-01-31 25:00", "31.01.2026", "2026-01-31 15:04 ", "tomorrow", "24:00", "yesterday 3", "yesterday 2w", "2d1w", "w", "1w1", "12:30 yesterday",
	} {
		if got, err := ParseTime(text, now); err == nil {
			t.Errorf("ParseTime(%q) = %s, want an error", text, got)
		}
	}
}

func TestParseUntil(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("here", 2*60*60)
	now := time.Date(2026, 3, 31, 12, 30, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"90m":                       now.Add(90 * time.Minute),
		"1s":                        now.Add(time.Second),
		"2w":                        now.AddDate(0, 0, 14),
		"12:31":                     time.Date(2026, 3, 31, 12, 31, 0, 0, zone),
		"12:30":                     time.Date(2026, 4, 1, 12, 30, 0, 0, zone),
		"9:05":                      time.Date(2026, 4, 1, 9, 5, 0, 0, zone),
		"23:59:59":                  time.Date(2026, 3, 31, 23, 59, 59, 0, zone),
		"12:29:59":                  time.Date(2026, 4, 1, 12, 29, 59, 0, zone),
		"today 18:00":               time.Date(2026, 3, 31, 18, 0, 0, 0, zone),
		"2026-03-31T05:31:00-05:00": now.Add(time.Minute),
	} {
		if got, err := ParseUntil(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is until %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"0s", "0d", "now", "today", "yesterday 18:00", "today 09:00", "2026-03-31 12:30", "2026-03-31T10:30:00Z", "-1h", "24:00", "5", "tomorrow"} {
		if got, err := ParseUntil(text, now); err == nil {
			t.Errorf("%q is until %v, want an error", text, got)
		}
	}
}
