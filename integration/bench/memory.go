package main

import (
	"context"
	"errors"
	"strings"
	"time"
)

const (
	largeBody    = 200 << 10
	largeClients = 64
	// idleFor is how long a process has had nothing to do when it is measured.
	idleFor = time.Second
)

// memory reads what the kernel says that `listen` and `work` hold: once they
// have taken one push through to `deployed` and are idle, and the most that
// `listen` ever held after 64 clients with bodies of 200 KiB.
func memory(ctx context.Context, b *bench) ([]result, error) {
	var listening, working, loaded []float64
	for round := range b.rounds {
		b.round(round)
		l, w, err := b.idleMemory(ctx)
		if err != nil {
			return nil, err
		}
		peak, err := b.loadedMemory(ctx)
		if err != nil {
			return nil, err
		}
		listening, working, loaded = append(listening, l), append(working, w), append(loaded, peak)
	}
	return []result{
		value("resident memory of listen, idle", "MiB", listening, target{max: 24}),
		value("resident memory of work, idle", "MiB", working, target{max: 24}),
		value("peak of listen, 64 clients with 200 KiB", "MiB", loaded, target{max: 64}),
	}, nil
}

// idleMemory runs the two as the two processes that a server runs.
func (b *bench) idleMemory(ctx context.Context) (listening, working float64, err error) {
	s, err := b.site(ctx, 1)
	if err != nil {
		return 0, 0, err
	}
	milestones := make(chan milestone, 64)
	worker, err := b.deployer(ctx, "work", s.config, "working", func(at time.Time, line string) {
		if strings.Contains(line, " delivery=") {
			milestones <- milestone{at, line}
		}
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, worker.stop()) }()
	listener, err := b.deployer(ctx, "listen", s.config, "listening", nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, listener.stop()) }()
	if _, err := listener.push(0, "owner/app", noCommit, s.commits[0], bodySize); err != nil {
		return 0, 0, err
	}
	if _, err := reached(ctx, milestones, "deployed", 0); err != nil {
		return 0, 0, err
	}
	time.Sleep(idleFor)
	if listening, err = resident(listener.cmd.Process.Pid, "VmRSS"); err != nil {
		return 0, 0, err
	}
	working, err = resident(worker.cmd.Process.Pid, "VmRSS")
	return listening, working, err
}

func (b *bench) loadedMemory(ctx context.Context) (peak float64, err error) {
	p, _, err := b.listener(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if _, err := acks(ctx, p.addr, webhookPath, largeClients, 2*slice, push(noCommit, commit, largeBody)); err != nil {
		return 0, err
	}
	return resident(p.cmd.Process.Pid, "VmHWM")
}
