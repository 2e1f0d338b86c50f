package handlers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// Root does for a step what only root may: one of the verbs in names, whose arguments root
// checks again by rules of its own. Its journal names the job. An exit code that is not
// 0 is a *process.ExitError.
type Root interface {
	Call(ctx context.Context, job Job, out io.Writer, verb string, args ...string) error
}

var errNoRoot = errors.New("nothing does here what only root may: set up the helper, as docs/handlers/helper.md says")

// AsRoot calls a verb of Root. What root's programs say goes to out, or to e.Out where
// that is nil.
func (e Env) AsRoot(ctx context.Context, out io.Writer, verb string, args ...string) error {
	if e.Root == nil {
		return fmt.Errorf("%s: %w", verb, errNoRoot)
	}
	if out == nil {
		out = e.Out
	}
	return process.Outside(func() error { return e.Root.Call(ctx, e.Job, out, verb, args...) })
}

// Ending makes h's plans end with a step for each of these units of systemd.
func Ending(h Handler, restart, reload []string) Handler { return ending{h, restart, reload} }

type ending struct {
	Handler
	restart, reload []string
}

func (h ending) Plan(ctx context.Context, job Job) (Plan, error) {
	plan, err := h.Handler.Plan(ctx, job)
	if err != nil {
		return plan, err
	}
	plan.Steps = slices.Clone(plan.Steps)
	for _, unit := range h.restart {
		plan.Steps = append(plan.Steps, unitStep(names.VerbRestart, unit))
	}
	for _, unit := range h.reload {
		plan.Steps = append(plan.Steps, unitStep(names.VerbReload, unit))
	}
	return plan, nil
}

func unitStep(verb, unit string) Step {
	call := []string{verb, unit}
	return Step{
		Name: strings.Join(call, " "), Describe: fmt.Sprintf("have root %s the unit %s", verb, unit), Root: [][]string{call},
		Run: func(ctx context.Context, env Env) error { return env.AsRoot(ctx, nil, verb, unit) },
	}
}
