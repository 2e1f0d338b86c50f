package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/queue"
)

const (
	few, many = 100, 100_000
	// taken is how many entries are taken from each in a round.
	taken = 60
	// nameBytes bounds what an entry may cost in memory: its name (67 bytes, in
	// 80 of the allocator), the name's header (16), and the slack of a slice.
	nameBytes = 160
)

// files takes entries from a queue of 100,000 files and from one of 100, in
// turns, and looks at what each entry costs in memory.
func files(ctx context.Context, b *bench) (_ []result, err error) {
	dir, err := b.scratch("files")
	if err != nil {
		return nil, err
	}
	long := filepath.Join(dir, "many")
	if err := fill(long, many); err != nil {
		return nil, err
	}
	var next, fewNext, bytes []float64
	for round := range b.rounds {
		b.round(round)
		short := filepath.Join(dir, fmt.Sprintf("few-%d", round))
		if err := fill(short, few); err != nil {
			return nil, err
		}
		small, err := watch(short)
		if err != nil {
			return nil, err
		}
		large, err := watch(long)
		if err != nil {
			return nil, errors.Join(err, small.close())
		}
		slow, quick, err := inTurns(ctx, large, small)
		if err = errors.Join(err, small.close(), large.close()); err != nil {
			return nil, err
		}
		next, fewNext = append(next, slow), append(fewNext, quick)
		bytes = append(bytes, (large.heap-small.heap)/float64(many-few))
	}
	return []result{
		compare("next of 100,000 entries: find, read, remove", "of 100", "us", next, fewNext, target{max: 1.5}),
		value("memory of a waiting entry", "bytes", bytes, target{max: nameBytes}),
	}, nil
}

// queueOf is a queue that is being watched.
type queueOf struct {
	q    *queue.Queue
	w    *queue.Watcher
	heap float64 // bytes that the watcher holds
}

// fill makes a directory with n entries.
func fill(dir string, n int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for i := range n {
		var id ulid.ULID
		if err := id.SetTime(uint64(i + 1)); err != nil {
			return err
		}
		name := id.String() + "_0bd0a0c0-8b0e-11f0-9a3f-5b1c2d3e4f50.json"
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func watch(dir string) (*queueOf, error) {
	q, err := queue.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	before := heap()
	w, err := q.Watch()
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return &queueOf{q: q, w: w, heap: heap() - before}, nil
}

func (s *queueOf) close() error { return errors.Join(s.w.Close(), s.q.Close()) }

// heap is what is in use once the garbage is gone.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// inTurns takes entries from both and returns the median of each in microseconds.
func inTurns(ctx context.Context, large, small *queueOf) (slow, quick float64, err error) {
	var slows, quicks []float64
	for range taken {
		for _, side := range []struct {
			s    *queueOf
			took *[]float64
		}{{large, &slows}, {small, &quicks}} {
			begin := time.Now()
			if err := side.s.takeOne(ctx); err != nil {
				return 0, 0, err
			}
			*side.took = append(*side.took, float64(time.Since(begin).Nanoseconds())/1000)
		}
	}
	return median(slows), median(quicks), nil
}

func (s *queueOf) takeOne(ctx context.Context) error {
	entries, err := s.w.Next(ctx, 1)
	if err != nil {
		return err
	}
	content, err := s.q.Read(entries[0])
	if err != nil {
		return err
	}
	if string(content) != "{}" {
		return fmt.Errorf("entry %s holds %q", entries[0].Name, content)
	}
	return s.w.Done(entries[0])
}
