package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// starts is how often `listen` is started in a round.
const starts = 4

// start measures from the start of the process to its first 202, on an existing
// state_dir as after a restart.
func start(ctx context.Context, b *bench) ([]result, error) {
	if _, err := b.program(ctx); err != nil { // not within the measurement
		return nil, err
	}
	dir, err := b.scratch("start")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "deployer.toml")
	text := []byte(sprintListenConfig(filepath.Join(dir, "state")))
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, err
	}
	var all []float64
	for round := range b.rounds {
		b.round(round)
		var some []float64
		for range starts {
			took, err := b.firstAck(ctx, config)
			if err != nil {
				return nil, err
			}
			some = append(some, took)
		}
		all = append(all, median(some))
	}
	return []result{value("listen, from its start to the first 202", "ms", all, target{max: 50})}, nil
}

func (b *bench) firstAck(ctx context.Context, config string) (ms float64, err error) {
	begin := time.Now()
	p, err := b.deployer(ctx, "listen", config, "listening", nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if _, err := p.push(0, noCommit, commit); err != nil {
		return 0, err
	}
	return milliseconds(time.Since(begin)), nil
}
