package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const logEvents = 1_000_000

// verify recomputes the tree over a million events, and compares it with a scan
// that only hashes them. Then the whole command, by its memory.
func verify(ctx context.Context, b *bench) (_ []result, err error) {
	pool, owner, err := b.store(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, owner.Close(ctx)) }()
	defer pool.Close()
	if err := errors.Join(samplelog.Fill(ctx, owner, logEvents, 0), samplelog.Complete(ctx, owner)); err != nil {
		return nil, err
	}
	log := eventlog.Open(pool, quiet())
	defer log.Close()
	// Verify compares the read models with the log.
	if err := projections.New(pool, log, quiet()).Rebuild(ctx, nil); err != nil {
		return nil, err
	}
	var rate, all, scanRate, memory, whole []float64
	for round := range b.rounds {
		b.round(round)
		scan, err := hashingScan(ctx, pool)
		if err != nil {
			return nil, err
		}
		scanRate = append(scanRate, logEvents/scan.Seconds())
		for _, treeOnly := range []bool{true, false} {
			begin := time.Now()
			v, err := log.Verify(ctx, eventlog.VerifyOptions{TreeOnly: treeOnly})
			if err != nil {
				return nil, err
			}
			if len(v.Faults) > 0 || v.Tree.N != logEvents {
				return nil, fmt.Errorf("verified %d events, and found %v", v.Tree.N, v.Faults[:min(3, len(v.Faults))])
			}
			if r := logEvents / time.Since(begin).Seconds(); treeOnly {
				rate = append(rate, r)
			} else {
				all = append(all, r)
			}
		}
		mib, took, err := b.verifyCommand(ctx, pool.Config().ConnString())
		if err != nil {
			return nil, err
		}
		memory, whole = append(memory, mib), append(whole, logEvents/took.Seconds())
	}
	return []result{
		compare("events verified against the tree, 1,000,000", "bare pgx scan + SHA-256 of the rows", "/s", rate, scanRate, target{min: 0.6}),
		compare("the same with their 250,000 bodies", "bare pgx scan + SHA-256 of the rows", "/s", all, scanRate, target{}),
		compare("`verify`: tree, bodies, fold, read models, queues", "bare pgx scan + SHA-256 of the rows", "/s", whole, scanRate, target{}),
		value("peak memory of `verify`, 1,000,000 events", "MiB", memory, target{max: 100}),
	}, nil
}

func hashingScan(ctx context.Context, pool *pgxpool.Pool) (time.Duration, error) {
	begin := time.Now()
	rows, err := pool.Query(ctx, `select position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data
		from public.events order by position`)
	if err != nil {
		return 0, err
	}
	n := 0
	h := sha256.New()
	for rows.Next() {
		h.Reset()
		for _, column := range rows.RawValues() {
			h.Write(column)
		}
		h.Sum(nil)
		n++
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	if n != logEvents {
		err = fmt.Errorf("scanned %d rows of %d", n, logEvents)
	}
	return time.Since(begin), err
}

// verifyCommand runs the program, and returns the most memory that it held, in MiB.
func (b *bench) verifyCommand(ctx context.Context, dsn string) (mib float64, took time.Duration, err error) {
	program, err := b.program(ctx)
	if err != nil {
		return 0, 0, err
	}
	dir, err := b.scratch("verify")
	if err != nil {
		return 0, 0, err
	}
	config := filepath.Join(dir, "deployer.toml")
	text := fmt.Sprintf("instance = \"prod\"\nstate_dir = %q\ndatabase_url = %q\n", filepath.Join(dir, "state"), dsn)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, 0, err
	}
	cmd := exec.CommandContext(ctx, program, "verify", "--config", config)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	took = time.Since(begin)
	if err != nil {
		return 0, 0, fmt.Errorf("verify: %w\n%s", err, out)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0, errors.New("the kernel does not say how much memory a process held")
	}
	return float64(usage.Maxrss) / 1024, took, nil // Linux counts KiB
}
