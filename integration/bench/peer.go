package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// peer compares `listen` with Debian's webhook, which checks the same signature
// and runs true, and stores nothing.
func peer(ctx context.Context, b *bench) (_ []result, err error) {
	other, addr, err := b.webhook(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, other.stop()) }()
	p, _, err := b.listener(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	body := push(noCommit, commit, bodySize)
	levels := []int{8, 64}
	var rate, otherRate, tail, otherTail [2][]float64
	for round := range b.rounds {
		b.round(round)
		for i, n := range levels {
			a, err := acks(ctx, p.addr, webhookPath, n, slice, body)
			if err != nil {
				return nil, err
			}
			o, err := acks(ctx, addr, "/hooks/bench", n, slice, body)
			if err != nil {
				return nil, fmt.Errorf("webhook: %w", err)
			}
			// It answers before its commands have run: let them end.
			if err := settled(ctx, other.cmd.Process.Pid); err != nil {
				return nil, err
			}
			rate[i], otherRate[i] = append(rate[i], a.rate), append(otherRate[i], o.rate)
			tail[i], otherTail[i] = append(tail[i], a.p99), append(otherTail[i], o.p99)
		}
	}
	return []result{
		compare("acknowledgements, 8 clients", "webhook, 8", "/s", rate[0], otherRate[0], target{min: 1.5}),
		compare("acknowledgements, 64 clients", "webhook, 64", "/s", rate[1], otherRate[1], target{min: 1.5}),
		compare("p99, 64 clients", "webhook, 64", "ms", tail[1], otherTail[1], target{max: 0.333}),
	}, nil
}

// webhook starts the peer and returns its address.
func (b *bench) webhook(ctx context.Context) (*process, string, error) {
	program, err := exec.LookPath("webhook")
	if err != nil {
		return nil, "", fmt.Errorf("the peer is missing: apt-get install webhook (%w)", err)
	}
	truth, err := exec.LookPath("true")
	if err != nil {
		return nil, "", err
	}
	dir, err := b.scratch("webhook")
	if err != nil {
		return nil, "", err
	}
	type object = map[string]any
	hooks, err := json.Marshal([]object{{
		"id": "bench", "execute-command": truth, "http-methods": []string{"POST"},
		"trigger-rule": object{"match": object{
			"type": "payload-hmac-sha256", "secret": secret,
			"parameter": object{"source": "header", "name": "X-Hub-Signature-256"},
		}},
	}})
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, "hooks.json")
	if err := os.WriteFile(path, hooks, 0o600); err != nil {
		return nil, "", err
	}
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	p, err := spawn(ctx, io.Discard, program, "-hooks", path, "-ip", "127.0.0.1", "-port", strconv.Itoa(port))
	if err != nil {
		return nil, "", err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for deadline := time.Now().Add(startLimit); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return p, addr, conn.Close()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, "", errors.Join(fmt.Errorf("webhook does not listen: %w", err), p.stop())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// freePort is a port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// settled waits until a process uses no processor time for a while.
func settled(ctx context.Context, pid int) error {
	before := -1
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; {
		now, err := busy(pid)
		if err != nil {
			return err
		}
		if now == before {
			return nil
		}
		before = now
		time.Sleep(100 * time.Millisecond)
	}
	return ctx.Err()
}
