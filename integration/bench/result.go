package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// target is what a score should be. With max set it is an upper bound, else min
// is a lower one, and better the aim beyond it. All zero: the score is only reported.
type target struct {
	min, better, max float64
	unit             string
}

func (t target) String() string {
	switch {
	case t.max > 0:
		return "at most " + number(t.max) + t.unit
	case t.better > 0:
		return fmt.Sprintf("at least %s%s, better %s%s", number(t.min), t.unit, number(t.better), t.unit)
	case t.min > 0:
		return "at least " + number(t.min) + t.unit
	}
	return "reported"
}

func (t target) verdict(score float64) string {
	switch {
	case t.max == 0 && t.min == 0:
		return "reported"
	case t.max > 0 && score > t.max, t.max == 0 && score < t.min:
		return "missed"
	case t.better > 0 && score >= t.better:
		return "better"
	}
	return "met"
}

// result is one line of the table: a score that is a ratio, or a value where
// there is no peer.
type result struct {
	Row     string `json:"row"`
	What    string `json:"what"`
	Against string `json:"against,omitempty"`
	// Ours and Theirs are medians of the rounds, in Unit.
	Ours   float64 `json:"ours"`
	Theirs float64 `json:"theirs,omitempty"`
	Unit   string  `json:"unit"`
	// Score is the median over the rounds of Ours to Theirs, or Ours itself;
	// Low and High are the least and the greatest of the rounds.
	Score   float64 `json:"score"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Target  string  `json:"target"`
	Verdict string  `json:"verdict"`
}

// compare scores ours against theirs, round by round: what a disk or a shared
// machine does varies by the minute, and a pair shares its minute.
func compare(what, against, unit string, ours, theirs []float64, t target) result {
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / theirs[i]
	}
	r := result{
		What: what, Against: against, Unit: unit, Ours: median(ours), Theirs: median(theirs),
		Score: median(ratios), Low: slices.Min(ratios), High: slices.Max(ratios), Target: t.String(),
	}
	r.Verdict = t.verdict(r.Score)
	return r
}

// value scores a value by itself.
func value(what, unit string, rounds []float64, t target) result {
	t.unit = " " + unit
	m := median(rounds)
	return result{
		What: what, Unit: unit, Ours: m, Score: m, Low: slices.Min(rounds), High: slices.Max(rounds),
		Target: t.String(), Verdict: t.verdict(m),
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}

// p99 is the 99th percentile in milliseconds; it sorts took.
func p99(took []time.Duration) float64 {
	slices.Sort(took)
	return milliseconds(took[min(len(took)-1, len(took)*99/100)])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// number prints three significant digits, or all of a larger whole number.
func number(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// printTable prints the head, and returns a function that prints lines below it.
func printTable(out io.Writer, m machine) func([]result) error {
	const line = "%-8s %-50s %-10s %-36s %-10s %-6s %-14s %-27s %s\n"
	fmt.Fprintf(out, "%s\n\n"+line, m, "ROW", "WHAT", "OURS", "AGAINST", "THEIRS", "SCORE", "ROUNDS", "TARGET", "VERDICT")
	return func(results []result) error {
		for _, r := range results {
			against, theirs := "-", "-"
			if r.Against != "" {
				against, theirs = r.Against, number(r.Theirs)+" "+r.Unit
			}
			_, err := fmt.Fprintf(out, line, r.Row, r.What, number(r.Ours)+" "+r.Unit, against, theirs,
				number(r.Score), number(r.Low)+" - "+number(r.High), r.Target, r.Verdict)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// printJSON is printTable with an object a line.
func printJSON(out io.Writer, m machine) func([]result) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(m)
	return func(results []result) error {
		for _, r := range results {
			err = errors.Join(err, enc.Encode(r))
		}
		return err
	}
}
