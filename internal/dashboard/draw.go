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
	Href       string
}

// run is a run as drawings show it.
type run struct {
	Class string // ok, bad, now or cut
	Took  time.Duration
	Title string
	Href  string
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

// chart shows how long runs took, with a scale.
type chart struct {
	W, H  int
	Bars  []bar
	Lines []chartLine
	// Median is where the line of the median run is; 0 for none.
	Median      int
	MedianText  string
	First, Last string
	Label       string
}

type chartLine struct {
	Y    int
	Text string
}

const (
	chartWidth  = 720
	chartHeight = 170
	chartLeft   = 92
	chartBottom = 26
)

// newChart draws runs, the oldest first.
func newChart(runs []run, first, last string) chart {
	c := chart{W: chartWidth, H: chartHeight, First: first, Last: last, Label: sparkLabel(runs)}
	if len(runs) == 0 {
		return c
	}
	top := rounded(longestOf(runs))
	const high = chartHeight - chartBottom - 12
	y := func(d time.Duration) int { return chartHeight - chartBottom - int(float64(high)*ratio(d, top)) }
	for _, part := range []time.Duration{0, top / 2, top} {
		c.Lines = append(c.Lines, chartLine{Y: y(part), Text: took(part)})
	}
	slot := float64(chartWidth-chartLeft) / float64(max(len(runs), 20))
	for i, r := range runs {
		h := max(2, chartHeight-chartBottom-y(r.Took))
		c.Bars = append(c.Bars, bar{
			X: chartWidth - int(slot*float64(len(runs)-i)), Y: chartHeight - chartBottom - h, W: max(2, int(slot)-2), H: h,
			Class: r.Class, Title: r.Title, Href: r.Href,
		})
	}
	if m := usual(runs); m > 0 {
		c.Median, c.MedianText = y(m), took(m)
		c.Label += ", usually in " + took(m)
	}
	return c
}

// rounded is a duration no shorter than d that is easy to read on a scale.
func rounded(d time.Duration) time.Duration {
	for unit := 10 * time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if n*unit >= d {
				return n * unit
			}
		}
		if unit > 1000*time.Hour {
			return d
		}
	}
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
