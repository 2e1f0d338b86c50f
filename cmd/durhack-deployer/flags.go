package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// maxAgo is how far back "30d" may reach, in days: a time that the database can hold.
const maxAgo = 100 * 366

// timeForms is what a time may look like, for help texts and errors.
const timeForms = `2026-01-31, "2026-01-31 15:04", RFC 3339, today, yesterday, "yesterday 15:04", 15:04 (when it last was), or how long ago: 90m, 30d, 2w`

// timeUsage ends the help text of every flag that takes a time.
const timeUsage = "`TIME`: " + timeForms

// clockLayouts are what a time of day may look like.
var clockLayouts = []string{"15:04:05", "15:04"}

// parseTime reads what people type for a moment, and what this program prints
// for one: with an offset it is that, without one it is local.
func parseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{
		time.RFC3339Nano, words.ClockLayout, "2006-01-02 15:04Z07:00", "2006-01-02T15:04Z07:00",
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
	return time.Time{}, usagef("%q is not a time; write %s", s, timeForms)
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

// jsonFlag is --json, which every reading command has.
func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON; a list is one object a line")
}

// reasonFlag is --reason, which goes into the log.
func reasonFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "reason", "", "why, for the log: `TEXT` (required)")
}

// reason checks the text of --reason.
func reason(text string) (string, error) {
	text, err := act.Reason(text)
	if err == nil && text == "" {
		err = usagef("missing --reason TEXT: it goes into the log with your name")
	}
	return text, err
}

// untilForms is what the end of something may look like.
const untilForms = `2026-01-31, "2026-01-31 15:04", RFC 3339, 15:04 (when it next is), or in how long: 90m, 3d, 2w`

// parseUntil reads a moment that is still to come.
func parseUntil(s string, now time.Time) (time.Time, error) {
	t, ago := timeAgo(s, now)
	if ago {
		t = now.Add(now.Sub(t))
	} else {
		var err error
		if t, err = parseTime(s, now); err != nil {
			return t, usagef("--until: %q is not a time; write %s", s, untilForms)
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
		return t, usagef("--until: %s is over already; write a time that is still to come", words.Clock(t))
	}
	return t, nil
}

// takes makes the check of a command's arguments, which are named as in its
// usage line. All are needed; cobra's own checks name none.
func takes(names ...string) cobra.PositionalArgs { return takesUpTo(len(names), names...) }

// takesUpTo is takes with the arguments after the first `needed` optional.
func takesUpTo(needed int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > len(names):
			return usagef("%s: unexpected argument %q", cmd.Name(), args[len(names)])
		case len(args) < needed:
			return usagef("%s: missing argument %s", cmd.Name(), names[len(args)])
		}
		for i, a := range args {
			if strings.TrimSpace(a) == "" {
				return usagef("%s: %s is empty", cmd.Name(), names[i])
			}
		}
		return nil
	}
}

// emptyFlag refuses a flag that was given without content, as by a script whose
// variable is not set: to take it for a flag that was left out would deploy the
// tip instead of a commit, and replay everywhere instead of at one deployment.
func emptyFlag(cmd *cobra.Command) error {
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name == "reason" {
			return // its commands need one, and say so better
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		blank := func(s string) bool { return strings.TrimSpace(s) == "" }
		if err == nil && (len(values) == 0 || slices.ContainsFunc(values, blank)) {
			err = usagef("%s: --%s is empty; give it a value, or leave it out", cmd.Name(), f.Name)
		}
	})
	return err
}

func unknownCommand(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("unknown command %q", name)
	if cmd.HasParent() {
		msg += fmt.Sprintf(" of %q", cmd.Name())
	}
	near := cmd.SuggestionsFor(name)
	switch {
	case len(near) > 0:
		msg += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	case cmd.HasParent():
		msg += "; one of: " + strings.Join(subNames(cmd), ", ")
	}
	return usagef("%s", msg)
}

// flagError words pflag's errors for people.
func flagError(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	var bare *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &missing):
		name := missing.GetSpecifiedName()
		if missing.GetSpecifiedShortnames() != "" {
			return usagef("%s: unknown flag -%s", cmd.Name(), name)
		}
		msg := fmt.Sprintf("%s: unknown flag --%s", cmd.Name(), name)
		if near := nearFlags(cmd, name); len(near) > 0 {
			msg += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
		}
		return usagef("%s", msg)
	case errors.As(err, &bare):
		f := bare.GetFlag()
		what, _ := pflag.UnquoteUsage(f)
		return usagef("%s: --%s needs a value: --%s %s", cmd.Name(), f.Name, f.Name, what)
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		switch f.Value.Type() {
		case "int", "int64":
			return usagef("%s: --%s takes a whole number, not %q", cmd.Name(), f.Name, invalid.GetValue())
		case "bool":
			return usagef("%s: --%s is a switch, it takes no value but true or false: %q", cmd.Name(), f.Name, invalid.GetValue())
		}
	}
	return &usageError{fmt.Errorf("%s: %w", cmd.Name(), err)}
}

// nearFlags are the flags that the name may have been meant for. cobra measures
// how near the names of commands are, so the flags are lent to it as such.
func nearFlags(cmd *cobra.Command, name string) []string {
	lent := &cobra.Command{SuggestionsMinimumDistance: 2}
	run := func(*cobra.Command, []string) {} // one that cannot run is not suggested
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		lent.AddCommand(&cobra.Command{Use: f.Name, Run: run})
	})
	near := lent.SuggestionsFor(name)
	for i := range near {
		near[i] = "--" + near[i]
	}
	slices.Sort(near)
	return near
}

// completeSlug completes a deployment's name, where a configuration is found.
func (c *cli) completeSlug(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, err := c.config()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cfg.Slugs(), cobra.ShellCompDirectiveNoFileComp
}

// completeNothing keeps a shell from offering file names.
func completeNothing(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// parseMoment reads a position, which is digits only, or a time.
func parseMoment(s string, now time.Time) (answer.Moment, error) {
	if s == "" {
		return answer.Moment{}, nil
	}
	if digits(s) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return answer.Moment{}, usagef("--at: %s is not a position of any log", s)
		}
		return answer.Moment{Position: n, Set: true}, nil
	}
	t, err := parseTime(s, now)
	if err != nil {
		return answer.Moment{}, usagef("--at: %w; or a position of the log: digits only", err)
	}
	return answer.Moment{Time: t, Set: true}, nil
}

func digits(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}
