// Package handlers turns a push into a plan, a list of named steps, and carries
// a plan out. It records nothing itself: each step's start and end is reported
// to the caller, which alone may append to the log, so that nothing can be
// deployed unrecorded.
package handlers

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// Job is one run that was decided on. Its text comes from the outside and is
// data: no step hands it to a shell.
type Job struct {
	Deployment string
	DeliveryID string
	Attempt    int
	// Repository is owner/name.
	Repository string
	// Branch is the short name.
	Branch string
	// Commit is the full hash to put live; PreviousCommit is what is live, or
	// empty on the first deploy.
	Commit         string
	PreviousCommit string
	// Path is the deployment's working tree.
	Path string
	// Actor is who caused the run.
	Actor string
}

// Stage is what a step has to do with a release, where commits are built in one.
type Stage int

const (
	// Build steps make it, and are left out where it is there.
	Build Stage = iota
	// Look steps look at it before it is live, each time.
	Look
	// Live steps come after it is live.
	Live
)

// Step is one part of a plan.
type Step struct {
	// Name is unique in its plan.
	Name string
	// Argv is the program that the step runs, for printing; nil where the step is
	// built in.
	Argv []string
	// Describe says in a line what the step does.
	Describe string
	// Root are the calls of Env.AsRoot that the step makes, verb first, so that doctor
	// can try them; the verb alone where its arguments are not known before the run.
	Root [][]string
	// Stage rises in a plan.
	Stage Stage
	// Timeout ends the step; zero leaves it to the context of Execute.
	Timeout time.Duration
	// Run does it. It returns soon after ctx ends, with everything that it
	// started ended.
	Run func(ctx context.Context, env Env) error
}

// Plan is what a job comes to. It can be printed without being run.
type Plan struct {
	Steps []Step
	// Undo, if set, is called once where a run did not come to its end, also where it was
	// canceled between two steps. It undoes what must not stay, and says in half a
	// sentence what stands now; "" where there is nothing to say.
	Undo func(ctx context.Context, env Env) string
	// Finally, if set, frees what the steps hold. Execute calls it after the last
	// step that was started, however that ended.
	Finally func()
}

// Names lists the steps in order.
func (p Plan) Names() []string {
	names := make([]string, len(p.Steps))
	for i, s := range p.Steps {
		names[i] = s.Name
	}
	return names
}

// Handler knows how one kind of deployment is put live.
type Handler interface {
	// Plan decides what to do for a job. It has no effects.
	Plan(ctx context.Context, job Job) (Plan, error)
}

// Leftovers goes on reading what programs leave behind: see process.Leftovers.
type Leftovers = process.Leftovers

// As are the rights of a deployment: see process.As.
type As = process.As

// Limits bound what the programs of a run may use.
type Limits interface {
	// Dir is the open directory of the control group that they start in.
	Dir() *os.File
	// Exceeded says in half a sentence what of a limit ended or refused something since
	// it was asked last; "" where nothing did.
	Exceeded() string
	// Close ends them after the run, and says what is left within them; "" where nothing is.
	Close() string
}

// Env is what steps work with.
type Env struct {
	// Out receives the output, usually a *RunLog; nil drops it.
	Out io.Writer
	// Mask covers the run's secrets; nil covers none. What goes to Out, and the error of a
	// step, are masked anyhow, but a secret of which only a piece is told is not recognized.
	Mask func(string) string
	// Vars is the complete environment of the programs that run: see Environment.
	Vars []string
	// SearchPaths are looked at before the PATH of Vars.
	SearchPaths []string
	// Leftovers goes on reading what programs leave behind; nil does not.
	Leftovers *Leftovers
	// Grace is the time between TERM and KILL; zero is process.DefaultGrace.
	Grace time.Duration
	// Nice is added to the niceness of programs.
	Nice int
	// As is with whose rights programs run, and steps read and write files.
	As As
	// Limits, if set, bound what programs may use together.
	Limits Limits
	// ProcessFile names the running program for KillOrphan, should we be killed;
	// empty names it nowhere.
	ProcessFile string
	// Root does what only root may, for Job; nil where nothing does: see AsRoot.
	Root Root
	Job  Job
}

// Say writes a line to the output.
func (e Env) Say(format string, args ...any) {
	if e.Out != nil {
		_, _ = fmt.Fprintf(e.Out, format+"\n", args...)
	}
}

// Masked is a text without the run's secrets, to tell a part of it.
func (e Env) Masked(text string) string {
	if e.Mask == nil {
		return text
	}
	return e.Mask(text)
}

// GroupDir is the control group that programs start in; nil is ours.
func (e Env) GroupDir() *os.File {
	if e.Limits == nil {
		return nil
	}
	return e.Limits.Dir()
}

// Run runs a program for a step: argv in dir, with extra after env.Vars (a later
// value wins). See process.Run for what the error is.
func (e Env) Run(ctx context.Context, dir string, extra []string, argv ...string) error {
	vars := make([]string, 0, len(e.Vars)+len(extra))
	vars = append(append(vars, e.Vars...), extra...)
	return process.Run(ctx, process.Command{
		Argv: argv, Dir: dir, Env: vars, SearchPaths: e.SearchPaths,
		Stdout: e.Out, Leftovers: e.Leftovers, Grace: e.Grace, Nice: e.Nice, As: e.As, Group: e.GroupDir(), File: e.ProcessFile,
	})
}

// KillOrphan ends what is left of the program that an Env.ProcessFile names:
// see process.KillOrphan. A run that is found interrupted calls it before the
// next attempt starts.
func KillOrphan(file string, grace time.Duration) (killed bool, err error) {
	return process.KillOrphan(file, grace)
}
