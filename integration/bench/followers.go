package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// manyFollowers is how many programs follow the log at once: as many as a server
// of Postgres has connections, if nobody changes that.
const manyFollowers = 100

// besideFollowers is how many pushes are sent with them, and without, in a round.
const besideFollowers = 20

// followers measures the time from the POST to the committed `started` with a
// hundred `log --follow` beside it, against that without, in turns; and how many
// connections the server has then.
func followers(ctx context.Context, b *bench) (_ []result, err error) {
	s, err := b.site(ctx, 1+2*b.rounds*besideFollowers)
	if err != nil {
		return nil, err
	}
	p, milestones, err := b.worksite(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	measure := s.typical(ctx, p, milestones)
	if _, err := measure(1); err != nil { // the clone
		return nil, err
	}
	var with, without, connections []float64
	for round := range b.rounds {
		b.round(round)
		alone, err := measure(besideFollowers)
		if err != nil {
			return nil, err
		}
		end, err := b.follow(ctx, s.config, manyFollowers)
		if err != nil {
			return nil, err
		}
		beside, err := measure(besideFollowers)
		var n float64
		err = errors.Join(err, conn.QueryRow(ctx, "select count(*) from pg_stat_activity where backend_type = 'client backend'").Scan(&n), end())
		if err != nil {
			return nil, err
		}
		with, without, connections = append(with, beside), append(without, alone), append(connections, n)
	}
	return []result{
		compare(fmt.Sprintf("POST to `started`, %d `log --follow` beside it", manyFollowers), "without them", "ms", with, without, target{max: 2}),
		value(fmt.Sprintf("connections of Postgres with %d `log --follow`", manyFollowers), "connections", connections, target{max: 85}),
	}, nil
}

// typical returns what measures the median of the next n pushes.
func (s site) typical(ctx context.Context, p *process, milestones <-chan milestone) func(n int) (float64, error) {
	next := 0
	return func(n int) (float64, error) {
		var took []time.Duration
		for range n {
			once, err := s.pushed(ctx, p, milestones, next)
			if err != nil {
				return 0, err
			}
			next, took = next+1, append(took, once)
			time.Sleep(pause)
		}
		slices.Sort(took)
		return milliseconds(took[len(took)/2]), nil
	}
}

// follow starts n followers, waits until each has printed an event, and returns what
// ends them.
func (b *bench) follow(ctx context.Context, config string, n int) (end func() error, err error) {
	binary, err := b.program(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	var running []*exec.Cmd
	end = func() error {
		stop()
		for _, cmd := range running {
			_ = cmd.Wait() // it was killed
		}
		return nil
	}
	for range n {
		cmd := exec.CommandContext(ctx, binary, "--config", config, "log", "--follow")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return nil, errors.Join(err, end())
		}
		running = append(running, cmd)
		read := bufio.NewReader(out)
		if _, err := read.ReadString('\n'); err != nil {
			return nil, errors.Join(fmt.Errorf("a follower ended: %w", err), end(), errors.New(stderr.String()))
		}
		go func() { _, _ = io.Copy(io.Discard, read) }() // until it ends
	}
	return end, nil
}
