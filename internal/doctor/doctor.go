// Package doctor looks for what keeps a deployer from working, and says what to
// do about it. It changes nothing; only a private Postgres that is stopped is
// started for as long as it is asked.
package doctor

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// Level says how bad a finding is.
type Level string

// The levels. Only Fail says that something does not work.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is the result of one check, or of a part of it.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Text is one line for people; it may hold text from outside.
	Text string `json:"text"`
	// Advice says what to do; empty where nothing needs to be done.
	Advice string `json:"advice,omitempty"`
}

// Options are what is looked at.
type Options struct {
	Config *config.Config
	Logger *slog.Logger
}

// doctor is a run of all checks.
type doctor struct {
	Options
	check string
	tell  func(Finding)
}

func (d *doctor) say(level Level, advice, format string, args ...any) {
	d.tell(Finding{Check: d.check, Level: level, Text: fmt.Sprintf(format, args...), Advice: advice})
}

// Run makes all checks, and tells each finding as it comes. It returns early, with
// the cause, only when ctx ends.
func Run(ctx context.Context, o Options, tell func(Finding)) error {
	d := &doctor{Options: o, tell: tell}
	for _, c := range []struct {
		name string
		run  func(context.Context)
	}{
		{"configuration", d.configuration},
		{"secret", d.secret},
		{"state_dir", d.stateDir},
		{"queues", d.queues},
		{"database", d.database},
		{"lock", d.lock},
		{"git", d.git},
		{"paths", d.paths},
		{"space", d.space},
		{"steps", d.steps},
		{"daemon", d.daemon},
		{"requests", d.requests},
	} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.check = c.name
		c.run(ctx)
	}
	return nil
}
