package main

import (
	"fmt"
	"time"
)

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
