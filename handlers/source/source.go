// Package source is what every handler begins with: the clone that a deployment
// works in, the commit fetched into it and checked out, and programs run in it.
package source

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// Source is one deployment's. It was checked where it was read: nothing here says
// again what a path or a remote may be.
type Source struct {
	// Path is the working tree, absolute.
	Path string
	// Remote is what is cloned: https, ssh, file or a path.
	Remote string
	// SearchPaths are looked at for programs before PATH.
	SearchPaths []string
	// FetchTimeout is for the step fetch; zero leaves it to the deployment's.
	FetchTimeout time.Duration
	// Submodules and Tags say that a deploy includes them.
	Submodules, Tags bool
	// Store and Blobless are those of git.Options.
	Store    string
	Blobless bool
	// Key and KnownHosts are those of git.Options.
	Key, KnownHosts string
	// Patience is how long a remote that is late or away is asked again; zero is
	// git.DefaultPatience.
	Patience time.Duration
}

// Checkout is the steps fetch and checkout.
func (s Source) Checkout(job handlers.Job) ([]handlers.Step, error) {
	if !names.Commit(job.Commit) {
		return nil, fmt.Errorf("plan %s: %q is not a full commit hash", job.Deployment, job.Commit)
	}
	if !names.Branch(job.Branch) {
		return nil, fmt.Errorf("plan %s: %q is not a branch name that git accepts", job.Deployment, job.Branch)
	}
	return []handlers.Step{
		{
			Name:     names.StepFetch,
			Describe: fmt.Sprintf("make commit %.12s of branch %q available in %s", job.Commit, job.Branch, s.Path),
			Timeout:  s.FetchTimeout,
			Run: func(ctx context.Context, env handlers.Env) error {
				repo := s.Repo(env)
				if err := repo.EnsureClone(ctx, job.Commit, env.Out); err != nil {
					return err
				}
				return repo.FetchCommit(ctx, job.Branch, job.Commit, env.Out)
			},
		},
		{
			Name:     names.StepCheckout,
			Describe: fmt.Sprintf("put exactly commit %.12s into %s", job.Commit, s.Path),
			Run: func(ctx context.Context, env handlers.Env) error {
				return s.Repo(env).Checkout(ctx, job.Commit, env.Out)
			},
		},
	}, nil
}

// Undo is handlers.Plan's where a run changes Path itself: it undoes nothing, and notes in
// the run log what Path holds.
func (s Source) Undo(job handlers.Job) func(context.Context, handlers.Env) string {
	return func(ctx context.Context, env handlers.Env) string {
		log, ok := env.Out.(*handlers.RunLog)
		if !ok {
			return ""
		}
		if head, err := s.Repo(env).Head(ctx); err != nil {
			log.Note("which commit %s holds is not known: %v", s.Path, err)
		} else if stands := Stands(s.Path, head, job); stands != "" {
			log.Note("%s", stands)
		}
		return ""
	}
}

// Stands says what a place holds after a run that failed.
func Stands(place, commit string, job handlers.Job) string {
	switch {
	case commit == "":
		return ""
	case commit != job.Commit:
		return fmt.Sprintf("%s still holds commit %.12s", place, commit)
	case job.PreviousCommit == "":
		return fmt.Sprintf("%s holds commit %.12s, which failed; nothing was live before", place, commit)
	}
	return fmt.Sprintf("%s holds commit %.12s, which failed; the one before was %.12s", place, commit, job.PreviousCommit)
}

// Repo is the clone, as a step works with it.
func (s Source) Repo(env handlers.Env) *git.Repo {
	return git.Open(s.Path, s.Remote, git.Options{
		Vars: env.Vars, SearchPaths: s.searchPaths(env), Grace: env.Grace, Nice: env.Nice, As: env.As, Base: env.Job.Path, Group: env.GroupDir(), ProcessFile: env.ProcessFile,
		Submodules: s.Submodules, Tags: s.Tags, Store: s.Store, Blobless: s.Blobless,
		Key: s.Key, KnownHosts: s.KnownHosts,
	}).Patient(cmp.Or(s.Patience, git.DefaultPatience), func(why string) { env.Say("%s", why) })
}

func (s Source) searchPaths(env handlers.Env) []string {
	return slices.Concat(s.SearchPaths, env.SearchPaths)
}

// Program is a step that runs argv in dir, which is relative to Path; extra
// (NAME=value) comes after the environment of the run.
func (s Source) Program(name, dir string, timeout time.Duration, extra []string, argv ...string) handlers.Step {
	dir = filepath.Join(s.Path, dir)
	return handlers.Step{
		Name:     name,
		Argv:     argv,
		Describe: fmt.Sprintf("run %s in %s", argv[0], dir),
		Timeout:  timeout,
		Run: func(ctx context.Context, env handlers.Env) error {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				return fmt.Errorf("%s is not a directory at this commit", dir)
			}
			return s.Run(ctx, env, dir, extra, argv...)
		},
	}
}

// Run runs a program with SearchPaths, and writes its command line to the output first.
func (s Source) Run(ctx context.Context, env handlers.Env, dir string, extra []string, argv ...string) error {
	env.Say("$ %s", quote(argv))
	env.SearchPaths = s.searchPaths(env)
	return env.Run(ctx, dir, extra, argv...)
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
