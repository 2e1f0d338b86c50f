// Package command is the handler that checks a commit out and then runs the
// steps of the configuration, in order.
package command

import (
	"context"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
)

// Config is one deployment's. It was checked where it was read.
type Config struct {
	source.Source
	Steps []StepConfig
}

// StepConfig is one configured step.
type StepConfig struct {
	Name string
	// Run is the program and its arguments, as they are: nothing is expanded in
	// them, and there is no shell. The environment names the job.
	Run []string
	// Dir is inside Path, relative to it; empty is Path.
	Dir string
	// Env is added to handlers.Environment.
	Env map[string]string
	// Timeout of zero leaves it to the deployment's.
	Timeout time.Duration
}

// Handler implements handlers.Handler.
type Handler struct{ cfg Config }

// New returns the handler of one deployment.
func New(cfg Config) *Handler { return &Handler{cfg: cfg} }

// Plan implements handlers.Handler.
func (h *Handler) Plan(_ context.Context, job handlers.Job) (handlers.Plan, error) {
	steps, err := h.cfg.Checkout(job)
	if err != nil {
		return handlers.Plan{}, err
	}
	for _, s := range h.cfg.Steps {
		extra := make([]string, 0, len(s.Env))
		for name, value := range s.Env {
			extra = append(extra, name+"="+value)
		}
		slices.Sort(extra)
		steps = append(steps, h.cfg.Program(s.Name, s.Dir, s.Timeout, extra, slices.Clone(s.Run)...))
	}
	return handlers.Plan{Steps: steps, Undo: h.cfg.Undo(job)}, nil
}
