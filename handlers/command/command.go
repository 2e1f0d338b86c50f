// Package command is the handler that checks a commit out and then runs the
// steps of the configuration, in order.
package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// Config is one deployment's. It was checked where it was read: nothing here says
// again what a path, a remote or a step may be.
type Config struct {
	// Path is the working tree, absolute.
	Path string
	// Remote is what is cloned: https, ssh, file or a path.
	Remote string
	Steps  []StepConfig
	// SearchPaths are looked at for programs before PATH.
	SearchPaths []string
	// FetchTimeout is for the step fetch; zero leaves it to the deployment's.
	FetchTimeout time.Duration
	// Submodules and Tags say that a deploy includes them.
	Submodules, Tags bool
	// Patience is how long a remote that is late or away is asked again; zero is
	// git.DefaultPatience.
	Patience time.Duration
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
func New(cfg Config) *Handler {
	cfg.Patience = cmp.Or(cfg.Patience, git.DefaultPatience)
	return &Handler{cfg: cfg}
}

// Plan implements handlers.Handler.
func (h *Handler) Plan(_ context.Context, job handlers.Job) (handlers.Plan, error) {
	if !names.Commit(job.Commit) {
		return handlers.Plan{}, fmt.Errorf("plan %s: %q is not a full commit hash", job.Deployment, job.Commit)
	}
	if !names.Branch(job.Branch) {
		return handlers.Plan{}, fmt.Errorf("plan %s: %q is not a branch name that git accepts", job.Deployment, job.Branch)
	}
	steps := []handlers.Step{
		{
			Name:     names.StepFetch,
			Describe: fmt.Sprintf("make commit %.12s of branch %q available in %s", job.Commit, job.Branch, h.cfg.Path),
			Timeout:  h.cfg.FetchTimeout,
			Run: func(ctx context.Context, env handlers.Env) error {
				repo := h.repo(env)
				if err := repo.EnsureClone(ctx, job.Commit, env.Out); err != nil {
					return err
				}
				return repo.FetchCommit(ctx, job.Branch, job.Commit, env.Out)
			},
		},
		{
			Name:     names.StepCheckout,
			Describe: fmt.Sprintf("put exactly commit %.12s into %s", job.Commit, h.cfg.Path),
			Run: func(ctx context.Context, env handlers.Env) error {
				return h.repo(env).Checkout(ctx, job.Commit, env.Out)
			},
		},
	}
	for _, s := range h.cfg.Steps {
		steps = append(steps, h.step(s))
	}
	return handlers.Plan{Steps: steps}, nil
}

func (h *Handler) repo(env handlers.Env) *git.Repo {
	return git.Open(h.cfg.Path, h.cfg.Remote, git.Options{
		Vars: env.Vars, SearchPaths: h.searchPaths(env), Grace: env.Grace, ProcessFile: env.ProcessFile,
		Submodules: h.cfg.Submodules, Tags: h.cfg.Tags,
	}).Patient(h.cfg.Patience, func(why string) {
		if env.Out != nil {
			_, _ = fmt.Fprintln(env.Out, why)
		}
	})
}

func (h *Handler) searchPaths(env handlers.Env) []string {
	return slices.Concat(h.cfg.SearchPaths, env.SearchPaths)
}

func (h *Handler) step(s StepConfig) handlers.Step {
	dir := filepath.Join(h.cfg.Path, s.Dir)
	extra := make([]string, 0, len(s.Env))
	for name, value := range s.Env {
		extra = append(extra, name+"="+value)
	}
	slices.Sort(extra)
	return handlers.Step{
		Name:     s.Name,
		Argv:     slices.Clone(s.Run),
		Describe: fmt.Sprintf("run %s in %s", s.Run[0], dir),
		Timeout:  s.Timeout,
		Run: func(ctx context.Context, env handlers.Env) error {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				return fmt.Errorf("%s is not a directory at this commit", dir)
			}
			if env.Out != nil {
				_, _ = io.WriteString(env.Out, "$ "+quote(s.Run)+"\n")
			}
			env.SearchPaths = h.searchPaths(env)
			return env.Run(ctx, dir, extra, s.Run...)
		},
	}
}

// quote shows where arguments begin and end.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = arg
		if arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r == 0x7f }) {
			words[i] = fmt.Sprintf("%q", arg)
		}
	}
	return strings.Join(words, " ")
}
