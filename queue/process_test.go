package queue

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Four producing processes, one of them killed over and over in the middle of
// its work, and one consumer. Every acknowledged entry arrives once and whole;
// one that was not acknowledged arrives whole or not at all; no litter stays.
func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	w := watch(t, q)

	var mu sync.Mutex
	acked := map[string]bool{}
	var producers sync.WaitGroup
	for p := range 3 {
		producers.Go(func() {
			names, err := runProducer(dir, 60, fmt.Sprintf("steady-%d", p), 0)
			if err != nil {
				t.Error(err)
			}
			if len(names) != 60 || !slices.IsSorted(names) {
				t.Errorf("producer %d: %d acknowledged, in order: %v", p, len(names), slices.IsSorted(names))
			}
			record(&mu, acked, names)
		})
	}
	producers.Go(func() {
		for i := range 8 {
			names, err := runProducer(dir, 1_000_000, fmt.Sprintf("killed-%d", i), 5+i)
			if err == nil {
				t.Error("the producer was not killed")
			}
			record(&mu, acked, names)
		}
	})
	finished := make(chan struct{})
	go func() { producers.Wait(); close(finished) }()

	got := map[string]bool{}
	consume := func(ctx context.Context) {
		for {
			entries, err := w.Next(ctx, 16)
			if err != nil {
				return
			}
			for _, e := range entries {
				b, err := q.Read(e)
				if err != nil || !isWhole(b, e.DeliveryID) {
					t.Errorf("%s: %d bytes, %v", e.Name, len(b), err)
				}
				if got[e.Name] {
					t.Errorf("%s came twice", e.Name)
				}
				got[e.Name] = true
				if err := w.Done(e); err != nil {
					t.Error(err)
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-finished; cancel() }()
	consume(ctx)
	<-finished

	// What is left, as after a restart.
	left, err := q.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		b, err := q.Read(e)
		if err != nil || !isWhole(b, e.DeliveryID) {
			t.Errorf("%s: %d bytes, %v", e.Name, len(b), err)
		}
		got[e.Name] = true
	}
	for name := range acked {
		if !got[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	if len(got) > len(acked)+8 { // each killed one had at most one under way
		t.Errorf("%d came, %d were acknowledged", len(got), len(acked))
	}
	open(t, dir) // sweeps
	raw, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range raw {
		if strings.HasPrefix(f.Name(), ".tmp-") {
			t.Errorf("%s is left", f.Name())
		}
	}
}

func record(mu *sync.Mutex, acked map[string]bool, names []string) {
	mu.Lock()
	defer mu.Unlock()
	for _, name := range names {
		acked[name] = true
	}
}

// runProducer returns the names that were acknowledged. It kills the process
// after so many of them, unless that is 0.
func runProducer(dir string, count int, tag string, killAfter int) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", producerEnv, dir, count, tag))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var names []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		names = append(names, lines.Text())
		if len(names) == killAfter {
			// Most of the time it is somewhere inside the next Put.
			if err := cmd.Process.Kill(); err != nil {
				return names, err
			}
		}
	}
	return names, cmd.Wait()
}
