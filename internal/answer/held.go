package answer

import (
	"context"
	"fmt"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Held is what the path of a deployment holds.
type Held struct {
	Path string `json:"path"`
	// Commit is the one that is checked out, empty where there is none.
	Commit string `json:"commit"`
	// Unfinished is the commit that a checkout was on the way to: files of both are there.
	Unfinished string `json:"unfinished,omitempty"`
	// Error says why it cannot be told.
	Error string `json:"error,omitempty"`
}

// String says what is there; path is the key of the configuration.
func (h Held) String() string {
	switch {
	case h.Error != "":
		return fmt.Sprintf("cannot read what path holds: %s", h.Error)
	case h.Unfinished != "" && h.Commit != "":
		return fmt.Sprintf("path holds files of commits %s and %s: a checkout did not end", words.ShortCommit(h.Commit), words.ShortCommit(h.Unfinished))
	case h.Unfinished != "":
		return fmt.Sprintf("path holds files of commit %s: its checkout did not end", words.ShortCommit(h.Unfinished))
	case h.Commit == "":
		return "path holds no checkout"
	}
	return fmt.Sprintf("path holds commit %s", words.ShortCommit(h.Commit))
}

// Tree is the working tree of a deployment.
type Tree interface {
	// Head is the commit that is checked out, "" where there is none.
	Head(ctx context.Context) (string, error)
	// Unfinished is the commit that a checkout which did not end was on the way to, or "".
	Unfinished() (string, error)
}

// HeldElse looks at what the path of a deployment holds where a run since the last
// deploy did not come to its end, and returns nil where that is what was deployed
// last. Then, and only then, what was deployed last is what visitors get. To nginx and to
// the deployer itself the path is only where files come from: a run that fails leaves
// them with what they had.
func (s Source) HeldElse(ctx context.Context, d *config.Deployment, now projections.Deployment) *Held {
	if d.Handler == config.HandlerNginx || d.Handler == config.HandlerSelf {
		return nil
	}
	if now.Running != nil || now.Failure == nil && now.LastType != eventlog.TypeInterrupted {
		return nil
	}
	live := ""
	if now.Live != nil {
		live = now.Live.Commit
	}
	h := Held{Path: d.Path}
	repo := s.Tree(d)
	var err error
	if h.Commit, err = repo.Head(ctx); err == nil {
		h.Unfinished, err = repo.Unfinished()
	}
	if err != nil {
		h.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	if err == nil && h.Commit == live && h.Unfinished == "" {
		return nil
	}
	return &h
}

// Held looks at the paths that do not hold what was deployed last, by slug.
func (s Source) Held(ctx context.Context, known map[string]projections.Deployment) map[string]*Held {
	held := map[string]*Held{}
	for slug, d := range s.Config.Deployments {
		if h := s.HeldElse(ctx, d, known[slug]); h != nil {
			held[slug] = h
		}
	}
	return held
}
