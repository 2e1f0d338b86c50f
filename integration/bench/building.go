package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// writerCommand makes this program the build, in a process of its own.
	writerCommand = "write-like-a-build"
	writers       = 2
	writerFiles   = 192
	writerSize    = 4 << 20
	buildSlice    = 2 * time.Second
	buildClients  = 8
)

// whileBuilding measures the tail of acknowledgements on an idle disk, and while
// a build writes to it as fast as it can.
func whileBuilding(ctx context.Context, b *bench) (_ []result, err error) {
	p, _, err := b.listener(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	dir, err := b.scratch("build")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	body := push(noCommit, commit, bodySize)
	var idle, building []float64
	for round := range b.rounds {
		b.round(round)
		quiet, err := acks(ctx, p.addr, webhookPath, buildClients, buildSlice, body)
		if err != nil {
			return nil, err
		}
		w, err := spawn(ctx, io.Discard, self, writerCommand, dir, strconv.Itoa(writers))
		if err != nil {
			return nil, err
		}
		busy, err := acks(ctx, p.addr, webhookPath, buildClients, buildSlice, body)
		if err = errors.Join(err, w.stop()); err != nil {
			return nil, err
		}
		if err := emptied(dir); err != nil {
			return nil, err
		}
		idle, building = append(idle, quiet.p99), append(building, busy.p99)
	}
	worst := 0.0
	for _, p := range building {
		worst = max(worst, p)
	}
	return []result{
		compare("p99 while a build writes, 8 clients", "idle disk", "ms", building, idle, target{}),
		value("the same, worst round", "ms", []float64{worst}, target{max: 2000}),
	}, nil
}

// emptied removes what the writers wrote, and waits until the disk has taken in
// what it still has to.
func emptied(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// runWriter writes files, over and over and without syncing them, until it is
// stopped: what a compiler or a package manager does to a disk.
func runWriter(args []string) int {
	if len(args) != 2 {
		return 2
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 2
	}
	var wg sync.WaitGroup
	failed := make(chan error, n)
	for w := range n {
		wg.Go(func() { failed <- writeForEver(args[0], w) })
	}
	wg.Wait()
	fmt.Fprintln(os.Stderr, <-failed)
	return 1
}

func writeForEver(dir string, writer int) error {
	block := make([]byte, 256<<10)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for i := 0; ; i++ {
		// Written again, as a build does, so that the disk's space is bounded.
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d-%d.o", writer, i%writerFiles)))
		if err != nil {
			return err
		}
		for range writerSize / len(block) {
			if _, err := f.Write(block); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
}
