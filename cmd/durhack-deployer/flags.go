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

// timeUsage ends the help text of every flag that takes a time.
const timeUsage = "`TIME`: " + words.TimeForms

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
		t, err := words.ParseTime(f.text, now)
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
	t, err := words.ParseTime(s, now)
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
