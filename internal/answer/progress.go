package answer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Progress is how far a run has come.
type Progress struct {
	Step   string    `json:"step"`
	Number int       `json:"number"`
	Of     int       `json:"of"`
	Since  time.Time `json:"since"`
	// UsualMS is what the step took, at the median, in the newest runs that succeeded; 0
	// where there is none.
	UsualMS int64 `json:"usual_ms,omitempty"`
}

func (p *Progress) String() string {
	s := fmt.Sprintf("step %d of %d, %s, for %s", p.Number, p.Of, p.Step, words.Span(max(0, time.Since(p.Since)).Truncate(time.Second)))
	if p.UsualMS > 0 {
		s += fmt.Sprintf(" (it usually takes %s)", words.Span(time.Duration(p.UsualMS)*time.Millisecond))
	}
	return s
}

// Durations are those of the steps of deployments, in milliseconds.
type Durations map[[2]string][]int64

// Add notes how long the steps of a run took, if it succeeded.
func (d Durations) Add(e eventlog.Event) error {
	data, err := e.Decode()
	if err != nil {
		return err
	}
	if deployed, ok := data.(eventlog.Deployed); ok {
		for _, s := range deployed.Steps {
			if s.DurationMS == 0 { // it had nothing to do, as in a release that was there
				continue
			}
			key := [2]string{e.DeploymentSlug(), s.Name}
			d[key] = append(d[key], s.DurationMS)
		}
	}
	return nil
}

// Usual is what a step takes, in milliseconds, at the median; 0 where there is none.
func (d Durations) Usual(slug, step string) int64 {
	took := slices.Sorted(slices.Values(d[[2]string{slug, step}]))
	if len(took) == 0 {
		return 0
	}
	return took[len(took)/2]
}

// usualOf is how many runs say what is usual.
const usualOf = 10

// Durations reads those of the newest runs, of one deployment or ("") of all.
func (s Source) Durations(ctx context.Context, slug string) (Durations, error) {
	d, limit := Durations{}, usualOf
	if slug == "" {
		limit = 100
	}
	for e, err := range s.Log.Find(ctx, eventlog.Filter{
		Instance: s.Config.Instance, Deployment: slug, Types: []eventlog.Type{eventlog.TypeDeployed}, Newest: true, Limit: limit,
	}) {
		if err == nil {
			err = d.Add(e)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// At reads how far a run has come from its run log; nil where that is not on this host,
// or no step has begun.
func (d Durations) At(cfg *config.Config, started eventlog.Event) *Progress {
	data, err := started.Decode()
	run, ok := data.(eventlog.Started)
	host, hostErr := os.Hostname()
	if err != nil || !ok || hostErr != nil || host != run.Host {
		return nil
	}
	slug := started.DeploymentSlug()
	n, since, err := handlers.Progress(filepath.Join(cfg.StateDir, "runs", slug, handlers.RunLogName(started.DeliveryID, started.Attempt)), run.Plan)
	if err != nil || n == 0 {
		return nil // a run log is not owed: the disk may be full
	}
	step := run.Plan[n-1]
	return &Progress{Step: step, Number: n, Of: len(run.Plan), Since: since, UsualMS: d.Usual(slug, step)}
}

// progress asks the log and the run log how far the run of a deployment has come.
func (s Source) progress(ctx context.Context, slug string, running projections.Mark) (*Progress, error) {
	took, err := s.Durations(ctx, slug)
	if err != nil {
		return nil, err
	}
	for e, err := range s.Log.Find(ctx, eventlog.Filter{Instance: s.Config.Instance, Positions: []int64{running.Position}}) {
		if err != nil {
			return nil, err
		}
		return took.At(s.Config, e), nil
	}
	return nil, nil
}
