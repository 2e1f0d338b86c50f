package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// runTeller says on standard error which step the runs are at whose events it has seen. It asks
// no database: who follows the log has one connection.
type runTeller struct {
	c    *cli
	cfg  *config.Config
	mu   sync.Mutex
	took answer.Durations
	runs map[string]eventlog.Event // the started event, by deployment
}

// tellRuns begins to tell; saw is to be called with each event, and stop at the end.
func (c *cli) tellRuns(ctx context.Context, cfg *config.Config, took answer.Durations) (saw func(eventlog.Event), stop func()) {
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
		_ = t.took.Add(e) // what cannot be decoded is not usual
		delete(t.runs, slug)
	case e.Type == eventlog.TypeFailed, e.Type == eventlog.TypeInterrupted:
		delete(t.runs, slug)
	}
}

func (t *runTeller) tell(told map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for slug, e := range t.runs {
		p := t.took.At(t.cfg, e)
		if p == nil {
			continue
		}
		if at := fmt.Sprintf("%d %d", e.Position, p.Number); told[slug] != at {
			told[slug] = at
			fmt.Fprintf(t.c.err, "%s: %s\n", printable(slug), printable(p.String()))
		}
	}
}
