package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// fans is how many deployments one push is for.
	fans = 100
	// beside is how many pushes of another app a round sends alone, and how many behind that one.
	beside = 5
	// hugeBody is near what GitHub sends at most, in bytes.
	hugeBody = 24 << 20
)

// follow adds deployments of a repository to a configuration.
func (s site) follow(config, repository string) error {
	f, err := os.OpenFile(config, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	for i := range fans {
		_, werr := fmt.Fprintf(f, "[deployments.fan-%d]\nrepository = %q\nenabled = true\nbranch = \"main\"\nremote = %q\npath = %q\n"+
			"steps = [{ name = \"nothing\", run = [\"true\"] }]\n", i, repository, s.bare, filepath.Join(filepath.Dir(s.bare), "fans", strconv.Itoa(i)))
		err = errors.Join(err, werr)
	}
	return errors.Join(err, f.Close())
}

// fanout sends one push to an app that many deployments follow, and behind it pushes
// to another app, one after the other, and compares the time to their `started` with
// what it is alone.
func fanout(ctx context.Context, b *bench) (_ []result, err error) {
	other, err := b.site(ctx, 1+3*beside*b.rounds)
	if err != nil {
		return nil, err
	}
	many := site{bare: filepath.Join(filepath.Dir(other.bare), "many.git")}
	if many.commits, err = makeCommits(ctx, many.bare, 1+b.rounds); err != nil {
		return nil, err
	}
	if err := many.follow(other.config, "owner/many"); err != nil {
		return nil, err
	}
	var ended atomic.Int64 // runs of many
	milestones := make(chan milestone, 64)
	p, err := b.deployer(ctx, "serve", other.config, "working", func(at time.Time, line string) {
		switch {
		case strings.Contains(line, " deployment=app "):
			milestones <- milestone{at, line}
		case strings.Contains(line, "msg=deployed ") && strings.Contains(line, " deployment=fan-"):
			ended.Add(1)
		}
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()

	sent, next := 0, 0
	send := func(s site, repository string, i int) (time.Time, error) {
		before := noCommit
		if i > 0 {
			before = s.commits[i-1]
		}
		if err := s.advance(i); err != nil {
			return time.Time{}, err
		}
		sent++
		return p.push(sent, repository, before, s.commits[i], bodySize)
	}
	// times are those of n pushes to the other app.
	times := func(n int) (took []float64, err error) {
		for range n {
			begin, err := send(other, "owner/app", next)
			if err != nil {
				return nil, err
			}
			next++
			at, err := reached(ctx, milestones, "started", sent)
			if err != nil {
				return nil, err
			}
			if _, err := reached(ctx, milestones, "deployed", sent); err != nil {
				return nil, err
			}
			took = append(took, milliseconds(at.Sub(begin)))
		}
		return took, nil
	}
	var alone, behind, inARow, large []float64
	for round := range 1 + b.rounds { // the first one clones
		quiet, err := times(min(beside, 1+round*beside))
		if err != nil {
			return nil, err
		}
		if _, err := send(many, "owner/many", round); err != nil {
			return nil, err
		}
		if round > 0 {
			b.round(round - 1)
			busy, err := times(beside)
			if err != nil {
				return nil, err
			}
			alone, behind, inARow = append(alone, median(quiet)), append(behind, busy[0]), append(inARow, median(busy))
		}
		for ended.Load() < int64((1+round)*fans) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(pause):
			}
		}
		if round == 0 {
			continue
		}
		sent++ // of a repository that nothing follows
		if _, err := p.push(sent, "owner/large", noCommit, commit, hugeBody); err != nil {
			return nil, err
		}
		busy, err := times(beside)
		if err != nil {
			return nil, err
		}
		large = append(large, slices.Max(busy))
	}
	return []result{
		compare(fmt.Sprintf("POST to `started` behind a push to %d deployments", fans), "that push alone", "ms", behind, alone, target{max: 2}),
		compare("the same, of five pushes in a row", "that push alone", "ms", inARow, alone, target{}),
		compare("the slowest of five behind a push of 24 MiB", "that push alone", "ms", large, alone, target{}),
	}, nil
}
