package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// manyStreams is how many browsers look on at once.
const manyStreams = 200

// streams measures the time from the POST to the committed `started` with two hundred
// event streams open, against that without, in turns; and the memory of the daemon then.
func streams(ctx context.Context, b *bench) (_ []result, err error) {
	s, err := b.site(ctx, 1+2*b.rounds*besideFollowers)
	if err != nil {
		return nil, err
	}
	p, milestones, err := b.worksite(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	measure := s.typical(ctx, p, milestones)
	if _, err := measure(1); err != nil { // the clone
		return nil, err
	}
	var with, without, memory, memoryWithout []float64
	held := func() (float64, error) { return resident(p.cmd.Process.Pid, "VmRSS") }
	for round := range b.rounds {
		b.round(round)
		alone, err := measure(besideFollowers)
		if err != nil {
			return nil, err
		}
		before, err := held()
		if err != nil {
			return nil, err
		}
		end, err := p.stream(ctx, manyStreams)
		if err != nil {
			return nil, err
		}
		beside, err := measure(besideFollowers)
		during, heldErr := held()
		if err := errors.Join(err, heldErr, end()); err != nil {
			return nil, err
		}
		with, without = append(with, beside), append(without, alone)
		memory, memoryWithout = append(memory, during), append(memoryWithout, before)
	}
	return []result{
		compare(fmt.Sprintf("POST to `started`, %d event streams beside it", manyStreams), "without them", "ms", with, without, target{max: 1.2}),
		value(fmt.Sprintf("resident memory of serve with %d event streams", manyStreams), "MiB", memory, target{max: 64}),
		value("the same before them", "MiB", memoryWithout, target{}),
	}, nil
}

// stream opens n event streams, waits until each has begun, and returns what ends them.
// It is an error where one has ended by itself.
func (p *process) stream(ctx context.Context, n int) (end func() error, err error) {
	ctx, stop := context.WithCancel(ctx)
	var reading sync.WaitGroup
	ended := make(chan error, n)
	client := &http.Client{Transport: &http.Transport{}}
	end = func() error {
		select {
		case err = <-ended:
		default:
			err = nil
		}
		stop()
		reading.Wait()
		client.CloseIdleConnections()
		return err
	}
	for range n {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/api/v1/events", http.NoBody)
		if err != nil {
			return nil, errors.Join(err, end())
		}
		request.Header.Set("Accept", "text/event-stream")
		answer, err := client.Do(request)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = errors.Join(fmt.Errorf("a stream is answered %s", answer.Status), answer.Body.Close())
		}
		if err != nil {
			return nil, errors.Join(err, end())
		}
		reading.Go(func() {
			defer answer.Body.Close()
			_, err := io.Copy(io.Discard, answer.Body)
			if ctx.Err() == nil {
				ended <- fmt.Errorf("a stream ended by itself: %w", errors.Join(err, io.ErrUnexpectedEOF))
			}
		})
	}
	return end, nil
}
