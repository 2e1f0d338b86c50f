package main

import (
	"fmt"
	"time"
)

// redraw is how often a progress line is drawn, at most.
const redraw = 100 * time.Millisecond

// progress shows a running count with its rate and the time that is left, on a
// terminal, and nothing elsewhere. finish wipes it away.
func (c *cli) progress(what string) (show func(done, total int64), finish func()) {
	if !isTerminal(c.err) {
		return func(int64, int64) {}, func() {}
	}
	begin, drawn := time.Now(), time.Time{}
	return func(done, total int64) {
			now := time.Now()
			if now.Sub(drawn) < redraw && done < total {
				return
			}
			drawn = now
			fmt.Fprintf(c.err, "\r\x1b[K%s", progressLine(what, done, total, now.Sub(begin)))
		},
		func() { fmt.Fprint(c.err, "\r\x1b[K") }
}

// progressLine is what a progress line says after a time.
func progressLine(what string, done, total int64, took time.Duration) string {
	line := fmt.Sprintf("%d of %d %s", done, total, what)
	if total > 0 {
		line = fmt.Sprintf("%3d%%  %s", min(100, 100*done/total), line)
	}
	if done <= 0 || took < redraw {
		return line
	}
	rate := float64(done) / took.Seconds()
	line += fmt.Sprintf(", %.0f/s", rate)
	if left := time.Duration(float64(total-done) / rate * float64(time.Second)); total > done {
		line += fmt.Sprintf(", %s left", max(left.Round(time.Second), time.Second))
	}
	return line
}
