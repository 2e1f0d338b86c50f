package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	bodySize = 8 << 10
	// slice is how long one side of a pair is measured; most bounds its operations
	// a goroutine, whatever the disk.
	slice = time.Second
	most  = 20_000

	webhookPath = "/github-webhook"
)

var commit = fmt.Sprintf("%040x", 0xc0ffee)

// noCommit is what GitHub sends as the commit before the first push of a branch.
const noCommit = "0000000000000000000000000000000000000000"

// listener starts `listen` on a new state_dir.
func (b *bench) listener(ctx context.Context) (*process, string, error) {
	dir, err := b.scratch("listen")
	if err != nil {
		return nil, "", err
	}
	config := filepath.Join(dir, "deployer.toml")
	if err := os.WriteFile(config, []byte(sprintListenConfig(filepath.Join(dir, "state"))), 0o600); err != nil {
		return nil, "", err
	}
	p, err := b.deployer(ctx, "listen", config, "listening", nil)
	return p, dir, err
}

func sprintListenConfig(stateDir string) string { return fmt.Sprintf(listenConfig, stateDir, secret) }

// listenConfig is of the instance of the sample log.
const listenConfig = `instance = "prod"
state_dir = %q
webhook_secret_token = %q

[listen]
host = "127.0.0.1"
port = 0

[admin]
port = 0
`

// acks measures the acknowledgements of a listener under n clients.
func acks(ctx context.Context, addr, path string, n int, long time.Duration, body []byte) (load, error) {
	list, closeAll, err := clients(addr, path, n, body)
	if err != nil {
		return load{}, err
	}
	defer closeAll()
	return drive(ctx, n, long, most, func(w int) error { return list[w].post() })
}

// ack compares the whole of `listen` with the system calls that it cannot do
// without, at 1 and at 64.
func ack(ctx context.Context, b *bench) (_ []result, err error) {
	p, _, err := b.listener(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	dir, err := b.scratch("raw")
	if err != nil {
		return nil, err
	}
	raw, err := newRawQueue(dir)
	if err != nil {
		return nil, err
	}
	defer raw.close()
	body := push(noCommit, commit, bodySize)
	var rate, rawRate [2][]float64
	var tail, rawTail []float64
	for round := range b.rounds {
		b.round(round)
		for i, n := range []int{1, 64} {
			r, err := drive(ctx, n, slice, most, func(int) error { return raw.put(body) })
			if err != nil {
				return nil, err
			}
			a, err := acks(ctx, p.addr, webhookPath, n, slice, body)
			if err != nil {
				return nil, err
			}
			rate[i], rawRate[i] = append(rate[i], a.rate), append(rawRate[i], r.rate)
			if n > 1 {
				tail, rawTail = append(tail, a.p99), append(rawTail, r.p99)
			}
		}
	}
	return []result{
		compare("acknowledgements, 1 client", "raw loop, 1", "/s", rate[0], rawRate[0], target{min: 0.75, better: 1}),
		compare("acknowledgements, 64 clients", "raw loop, 64", "/s", rate[1], rawRate[1], target{min: 0.65, better: 1}),
		compare("p99, 64 clients", "raw loop, 64", "ms", tail, rawTail, target{max: 0.5}),
	}, nil
}
