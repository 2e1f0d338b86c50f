package dashboard

import (
	"fmt"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// bar is a rectangle of a drawing, and what it stands for.
type bar struct {
	X, Y, W, H int
	Class      string
	Title      string
}

// run is a run as drawings show it.
type run struct {
	Class string // ok, bad, now or cut
	Took  time.Duration
	Title string
}

// spark is the small drawing of the newest runs of a deployment: as high as they took long.
type spark struct {
	Bars  []bar
	Label string
}

const (
	sparkRuns   = 20
	sparkWidth  = 200
	sparkHeight = 36
)

// newSpark draws runs, the oldest first; the newest stands at the right.
func newSpark(runs []run) spark {
	runs = runs[max(0, len(runs)-sparkRuns):]
	const step = sparkWidth / sparkRuns
	longest := longestOf(runs)
	s := spark{Label: sparkLabel(runs)}
	for i, r := range runs {
		h := 4 + int(float64(sparkHeight-6)*ratio(r.Took, longest))
		s.Bars = append(s.Bars, bar{
			X: sparkWidth - step*(len(runs)-i), Y: sparkHeight - 1 - h, W: step - 3, H: h, Class: r.Class, Title: r.Title,
		})
	}
	return s
}

func sparkLabel(runs []run) string {
	n := map[string]int{}
	for _, r := range runs {
		n[r.Class]++
	}
	switch {
	case len(runs) == 0:
		return "No runs yet"
	case n["ok"] == len(runs):
		return fmt.Sprintf("The last %s: all deployed", words.Counted(len(runs), "run", "runs"))
	}
	label := fmt.Sprintf("The last %s: %d deployed", words.Counted(len(runs), "run", "runs"), n["ok"])
	for _, c := range []struct{ class, word string }{{"bad", "failed"}, {"cut", "interrupted"}, {"now", "running"}} {
		if n[c.class] > 0 {
			label += fmt.Sprintf(", %d %s", n[c.class], c.word)
		}
	}
	return label
}

func longestOf(runs []run) (longest time.Duration) {
	for _, r := range runs {
		longest = max(longest, r.Took)
	}
	return longest
}

// ratio is a/b, between 0 and 1.
func ratio(a, b time.Duration) float64 {
	if b <= 0 {
		return 0
	}
	return min(1, max(0, float64(a)/float64(b)))
}

// median is the middle one of durations; 0 of none.
func median(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

// usual is how long runs that succeed take, at the median; 0 where none did.
func usual(runs []run) time.Duration {
	var took []time.Duration
	for _, r := range runs {
		if r.Class == "ok" {
			took = append(took, r.Took)
		}
	}
	return median(took)
}

// chart shows how long runs took, with a scale: its words stand beside the drawing, which is
// stretched, and stay as large as all others.
type chart struct {
	W, H int
	Bars []bar
	// Scale are the longest time that is drawn, its half and nothing.
	Scale []string
	// Median is where the line of the median run is; 0 for none.
	Median      int
	First, Last string
	Label       string
}

const (
	chartWidth  = 720
	chartHeight = 120
	barWidth    = 34
)

// newChart draws runs, the oldest first, spread over the whole width.
func newChart(runs []run, first, last time.Time) chart {
	c := chart{W: chartWidth, H: chartHeight, Label: sparkLabel(runs)}
	if len(runs) == 0 {
		return c
	}
	const day = "2 Jan 2006"
	if c.First, c.Last = first.UTC().Format(day), last.UTC().Format(day); c.First == c.Last {
		c.First, c.Last = first.UTC().Format(day+", 15:04"), last.UTC().Format("15:04 UTC")
	}
	top := rounded(longestOf(runs))
	c.Scale = []string{tick(top), tick(top / 2), "0"}
	height := func(d time.Duration) int { return max(2, int(chartHeight*ratio(d, top))) }
	slot := float64(chartWidth) / float64(len(runs))
	width := min(barWidth, max(2, int(slot)-2))
	for i, r := range runs {
		h := height(r.Took)
		c.Bars = append(c.Bars, bar{
			X: int(slot*(float64(i)+0.5)) - width/2, Y: chartHeight - h, W: width, H: h, Class: r.Class, Title: r.Title,
		})
	}
	if m := usual(runs); m > 0 {
		c.Median = chartHeight - height(m)
		c.Label += ", usually in " + took(m)
	}
	return c
}

// rounded is a duration no shorter than d that is easy to read on a scale, as its half is.
func rounded(d time.Duration) time.Duration {
	for unit := 10 * time.Millisecond; unit < time.Second; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if n*unit >= d {
				return n * unit
			}
		}
	}
	for _, unit := range []time.Duration{time.Second, time.Minute} {
		for _, n := range []time.Duration{1, 2, 4, 10, 20, 30} {
			if n*unit >= d {
				return n * unit
			}
		}
	}
	for top := time.Hour; ; top *= 2 {
		if top >= d {
			return top
		}
	}
}

// tick is a round duration, on a scale.
func tick(d time.Duration) string {
	for _, in := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if d >= in.unit && d%in.unit == 0 {
			return fmt.Sprintf("%d %s", d/in.unit, in.name)
		}
	}
	return took(d)
}

// stepBar is a step of a run on the run's axis.
type stepBar struct {
	Name, Result, Took string
	Class              string
	X, W               int
	// UsualX and UsualW are where it would be if it had taken its usual time; 0 for unknown.
	UsualW int
}

// axis is how many units wide the axis of the steps is.
const axis = 1000

// stepTime is a step and how long it took, or takes so far.
type stepTime struct {
	Name, Result string
	Took, Usual  time.Duration
}

// newSteps puts steps on one axis, one after the other.
func newSteps(steps []stepTime) []stepBar {
	var whole, at time.Duration
	for _, s := range steps {
		whole = max(whole, at+s.Took, at+s.Usual)
		at += s.Took
	}
	var bars []stepBar
	at = 0
	for _, s := range steps {
		class := "bad"
		switch s.Result {
		case "ok":
			class = "ok"
		case "running":
			class = "now"
		}
		bars = append(bars, stepBar{
			Name: s.Name, Result: s.Result, Took: took(s.Took), Class: class,
			X: int(axis * ratio(at, whole)), W: max(3, int(axis*ratio(s.Took, whole))), UsualW: int(axis * ratio(s.Usual, whole)),
		})
		at += s.Took
	}
	return bars
}
