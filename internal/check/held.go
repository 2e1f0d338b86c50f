package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
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
	short := func(commit string) string { return commit[:min(12, len(commit))] }
	switch {
	case h.Error != "":
		return fmt.Sprintf("cannot read what path holds: %s", h.Error)
	case h.Unfinished != "" && h.Commit != "":
		return fmt.Sprintf("path holds files of commits %s and %s: a checkout did not end", short(h.Commit), short(h.Unfinished))
	case h.Unfinished != "":
		return fmt.Sprintf("path holds files of commit %s: its checkout did not end", short(h.Unfinished))
	case h.Commit == "":
		return "path holds no checkout"
	}
	return fmt.Sprintf("path holds commit %s", short(h.Commit))
}

// HeldElse looks at what the path of a deployment holds where a run since the last
// deploy did not come to its end, and returns nil where that is what was deployed
// last. Then, and only then, what was deployed last is what visitors get.
func HeldElse(ctx context.Context, cfg *config.Config, d *config.Deployment, now projections.Deployment) *Held {
	if now.Running != nil || now.Failure == nil && now.LastType != eventlog.TypeInterrupted {
		return nil
	}
	live := ""
	if now.Live != nil {
		live = now.Live.Commit
	}
	h := Held{Path: d.Path}
	repo := daemon.Tree(cfg, d)
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
