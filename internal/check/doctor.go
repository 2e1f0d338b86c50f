// Package check compares a deployer with what it should be: Doctor looks at the
// host and the configuration, Verify at the log and what follows from it, Projections
// at the read models and the disk. It changes nothing; only a private Postgres that
// is stopped is started for as long as it is asked.
package check

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

// doctor is a run of all its checks.
type doctor struct {
	cfg   *config.Config
	log   *slog.Logger
	check string
	tell  func(Finding)
}

func (d *doctor) say(level Level, advice, format string, args ...any) {
	d.tell(Finding{Check: d.check, Level: level, Text: fmt.Sprintf(format, args...), Advice: advice})
}

// failed tells of an error, and says whether there is one.
func (d *doctor) failed(err error, advice string) bool {
	if err != nil {
		d.say(Fail, advice, "%s", oneLine(err))
	}
	return err != nil
}

// Doctor looks for what keeps the daemon from working, and tells each finding as it
// comes. It returns early, with the cause, only when ctx ends.
func Doctor(ctx context.Context, cfg *config.Config, log *slog.Logger, tell func(Finding)) error {
	d := &doctor{cfg: cfg, log: log, tell: tell}
	for _, c := range []struct {
		name string
		run  func(context.Context)
	}{
		{"configuration", d.configuration},
		{"secret", d.secret},
		{"state_dir", d.stateDir},
		{"queues", d.queues},
		{"database", d.database},
		{"github", d.github},
		{"notify", d.notify},
		{"lock", d.lock},
		{"git", d.git},
		{"paths", d.paths},
		{"space", d.space},
		{"steps", d.steps},
		{"helper", d.helper},
		{"certificates", d.certificates},
		{"pm2", d.pm2},
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
