package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// start measures how long `serve` takes on a long log, against a short one: from the
// start of the process until a push is routed that is sent as soon as it listens, and
// until /readyz says that it is fit to work.
func start(ctx context.Context, b *bench) ([]result, error) {
	const short, long = 0, 1
	var logs [2]longLog
	for i, n := range []int{fewEvents, logEvents} {
		var err error
		if logs[i], err = b.longLog(ctx, n); err != nil {
			return nil, err
		}
	}
	var routed, ready [2][]float64
	for round := -1; round < b.rounds; round++ { // the first one signs a checkpoint of the whole log
		if round >= 0 {
			b.round(round)
		}
		for i, l := range logs {
			r, fit, err := b.startOnce(ctx, l, round+1)
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				routed[i], ready[i] = append(routed[i], r), append(ready[i], fit)
			}
		}
	}
	return []result{
		compare("start to the first push routed, 1,000,000 events", "10,000 events", "ms", routed[long], routed[short], target{max: 1.2}),
		compare("start to /readyz, 1,000,000 events", "10,000 events", "ms", ready[long], ready[short], target{max: 1.2}),
	}, nil
}

func (b *bench) startOnce(ctx context.Context, l longLog, i int) (routed, ready float64, err error) {
	milestones := make(chan milestone, 64)
	begin := time.Now()
	p, err := b.deployer(ctx, "serve", l.config, `"admin pages"`, func(at time.Time, line string) {
		if strings.Contains(line, " delivery=") {
			milestones <- milestone{at, line}
		}
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if _, err := p.push(i, "owner/app", noCommit, commit, bodySize); err != nil {
		return 0, 0, err
	}
	fit := make(chan error, 1)
	go func() {
		err := p.fit(ctx)
		ready = milliseconds(time.Since(begin))
		fit <- err
	}()
	at, err := reached(ctx, milestones, "voided", i) // no deployment follows owner/app
	err = errors.Join(err, <-fit)
	return milliseconds(at.Sub(begin)), ready, err
}

// fit waits until /readyz says that the deployer is fit to work.
func (p *process) fit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return fmt.Errorf("wait until the deployer is fit to work: %w", err)
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}
