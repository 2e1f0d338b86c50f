package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/cgroup"
	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// limiter has the control group that is delegated to this process, or why there is none.
type limiter struct {
	tree *cgroup.Tree
	err  error
}

// newLimiter leaves the process where it is unless a deployment wants a limit.
func newLimiter(cfg *config.Config, log *slog.Logger) *limiter {
	if len(limited(cfg)) == 0 {
		return &limiter{}
	}
	tree, err := cgroup.Open()
	if err != nil {
		log.Warn("memory_max and tasks_max do nothing here", "error", err)
	}
	return &limiter{tree, err}
}

// IdleLimits says in a sentence that the limits of runs do nothing on this host, or "".
func IdleLimits(cfg *config.Config) string {
	slugs := limited(cfg)
	if len(slugs) == 0 {
		return ""
	}
	if err := cgroup.Available(); err != nil {
		return fmt.Sprintf("memory_max and tasks_max of %s do nothing here: %v", strings.Join(slugs, ", "), err)
	}
	return ""
}

// limited are the deployments whose runs are to be limited.
func limited(cfg *config.Config) (slugs []string) {
	for _, slug := range cfg.Slugs() {
		if d := cfg.Deployments[slug]; d.Enabled && (d.MemoryMax > 0 || d.TasksMax > 0) {
			slugs = append(slugs, slug)
		}
	}
	return slugs
}

// of begins the limits of a run; it is nil where the deployment has none.
func (l *limiter) of(d *config.Deployment) func() (handlers.Limits, error) {
	if d.MemoryMax == 0 && d.TasksMax == 0 {
		return nil
	}
	return func() (handlers.Limits, error) {
		if l.err != nil {
			return nil, l.err
		}
		g, err := l.tree.Group("run-"+d.Slug, cgroup.Limits{Memory: int64(d.MemoryMax), Tasks: d.TasksMax})
		if err != nil {
			return nil, err
		}
		return limitedRun{g, d}, nil
	}
}

// limitedRun tells of limits as they were configured.
type limitedRun struct {
	group *cgroup.Group
	d     *config.Deployment
}

func (r limitedRun) Dir() *os.File { return r.group.Dir() }

func (r limitedRun) Exceeded() string {
	var said []string
	memory, tasks := r.group.Exceeded()
	if memory {
		said = append(said, fmt.Sprintf("it used more than memory_max = %q", r.d.MemoryMax))
	}
	if tasks {
		said = append(said, fmt.Sprintf("it wanted more tasks than tasks_max = %d", r.d.TasksMax))
	}
	return strings.Join(said, "; ")
}

func (r limitedRun) Close() string {
	if left := r.group.Close(); left > 0 {
		return fmt.Sprintf("%d of the run's processes go on, within memory_max and tasks_max, and count in the next run", left)
	}
	return ""
}
