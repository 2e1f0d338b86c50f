package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// progress is how far a run has come.
type progress struct {
	Step   string    `json:"step"`
	Number int       `json:"number"`
	Of     int       `json:"of"`
	Since  time.Time `json:"since"`
	// UsualMS is what the step took, at the median, in the newest runs that succeeded; 0
	// where there is none.
	UsualMS int64 `json:"usual_ms,omitempty"`
}

func (p *progress) String() string {
	s := fmt.Sprintf("step %d of %d, %s, for %s", p.Number, p.Of, p.Step, span(max(0, time.Since(p.Since)).Truncate(time.Second)))
	if p.UsualMS > 0 {
		s += fmt.Sprintf(" (it usually takes %s)", span(time.Duration(p.UsualMS)*time.Millisecond))
	}
	return s
}

// durations are those of the steps of deployments, in milliseconds.
type durations map[[2]string][]int64

func (d durations) add(e eventlog.Event) error {
	data, err := e.Decode()
	if err != nil {
		return err
	}
	if deployed, ok := data.(eventlog.Deployed); ok {
		for _, s := range deployed.Steps {
			key := [2]string{e.DeploymentSlug(), s.Name}
			d[key] = append(d[key], s.DurationMS)
		}
	}
	return nil
}

func (d durations) usual(slug, step string) int64 {
	took := slices.Sorted(slices.Values(d[[2]string{slug, step}]))
	if len(took) == 0 {
		return 0
	}
	return took[len(took)/2]
}

// usualOf is how many runs say what is usual.
const usualOf = 10

// readDurations reads those of the newest runs, of one deployment or ("") of all.
func readDurations(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string) (durations, error) {
	d, limit := durations{}, usualOf
	if slug == "" {
		limit = 100
	}
	for e, err := range store.Log.Find(ctx, eventlog.Filter{
		Instance: cfg.Instance, Deployment: slug, Types: []eventlog.Type{eventlog.TypeDeployed}, Newest: true, Limit: limit,
	}) {
		if err == nil {
			err = d.add(e)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// at reads how far a run has come from its run log; nil where that is not on this host,
// or no step has begun.
func (d durations) at(cfg *config.Config, started eventlog.Event) *progress {
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
	return &progress{Step: step, Number: n, Of: len(run.Plan), Since: since, UsualMS: d.usual(slug, step)}
}

// progressOf asks the log and the run log how far the run of a deployment has come.
func progressOf(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string, running projections.Mark) (*progress, error) {
	took, err := readDurations(ctx, cfg, store, slug)
	if err != nil {
		return nil, err
	}
	for e, err := range store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, Positions: []int64{running.Position}}) {
		if err != nil {
			return nil, err
		}
		return took.at(cfg, e), nil
	}
	return nil, nil
}

// runTeller says on standard error which step the runs are at whose events it has seen. It asks
// no database: who follows the log has one connection.
type runTeller struct {
	c    *cli
	cfg  *config.Config
	mu   sync.Mutex
	took durations
	runs map[string]eventlog.Event // the started event, by deployment
}

// tellRuns begins to tell; saw is to be called with each event, and stop at the end.
func (c *cli) tellRuns(ctx context.Context, cfg *config.Config, took durations) (saw func(eventlog.Event), stop func()) {
	t := &runTeller{c: c, cfg: cfg, took: took, runs: map[string]eventlog.Event{}}
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		for told := map[string]string{}; retry.Sleep(ctx, waitsEvery); {
			t.tell(told)
		}
	})
	return t.saw, func() {
		cancel()
		telling.Wait()
	}
}

func (t *runTeller) saw(e eventlog.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch slug := e.DeploymentSlug(); {
	case e.Instance != t.cfg.Instance:
	case e.Type == eventlog.TypeStarted:
		t.runs[slug] = e
	case e.Type == eventlog.TypeDeployed:
		_ = t.took.add(e) // what cannot be decoded is not usual
		delete(t.runs, slug)
	case e.Type == eventlog.TypeFailed, e.Type == eventlog.TypeInterrupted:
		delete(t.runs, slug)
	}
}

func (t *runTeller) tell(told map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for slug, e := range t.runs {
		p := t.took.at(t.cfg, e)
		if p == nil {
			continue
		}
		if at := fmt.Sprintf("%d %d", e.Position, p.Number); told[slug] != at {
			told[slug] = at
			fmt.Fprintf(t.c.err, "%s: %s\n", printable(slug), printable(p.String()))
		}
	}
}
