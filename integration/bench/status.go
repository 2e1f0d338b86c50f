package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/samplelog"
)

const (
	fewEvents = 10_000
	// asked is how often `status` is called in a round.
	asked = 20
	// sampleDeployments is how many deployments the sample log has.
	sampleDeployments = 8
)

// longLog is a database with a sample log, and a configuration that names it.
type longLog struct{ config, dsn string }

// longLog fills a log with n events, and builds its read models, once for all rows.
func (b *bench) longLog(ctx context.Context, n int) (_ longLog, err error) {
	if l, ok := b.logs[n]; ok {
		return l, nil
	}
	pool, owner, err := b.store(ctx)
	if err != nil {
		return longLog{}, err
	}
	defer func() { err = errors.Join(err, owner.Close(ctx)) }()
	defer pool.Close()
	if err := errors.Join(samplelog.Fill(ctx, owner, n, 0), samplelog.Complete(ctx, owner)); err != nil {
		return longLog{}, err
	}
	dir, err := b.scratch("log")
	if err != nil {
		return longLog{}, err
	}
	var text strings.Builder
	l := longLog{filepath.Join(dir, "deployer.toml"), owner.Config().ConnString()}
	fmt.Fprintf(&text, "database_url = %q\n"+listenConfig, l.dsn, filepath.Join(dir, "state"), secret)
	for i := range sampleDeployments {
		fmt.Fprintf(&text, "[deployments.app-%d]\nhandler = \"command\"\nrepository = \"octo/app-%d\"\nbranch = \"main\"\npath = %q\n",
			i, i, filepath.Join(dir, fmt.Sprint("www-", i)))
	}
	if err := os.WriteFile(l.config, []byte(text.String()), 0o600); err != nil {
		return longLog{}, err
	}
	if _, _, err = b.command(ctx, l, "projections", "rebuild"); err == nil {
		b.logs[n] = l
	}
	return l, err
}

// command runs a command of the program to its end.
func (b *bench) command(ctx context.Context, l longLog, args ...string) (*exec.Cmd, string, error) {
	binary, err := b.program(ctx)
	if err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, binary, append([]string{"--config", l.config}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return cmd, out.String(), nil
}

// peak is the most memory that a program held, in MiB.
func peak(cmd *exec.Cmd) float64 {
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage) //nolint:forcetypeassert // Linux
	return float64(usage.Maxrss) / 1024                    // Linux counts KiB
}

// status measures how long `status` takes as a whole, from the start of the
// process to its end, on a long log against a short one; and what a rebuild of the
// long one takes of memory at most.
func status(ctx context.Context, b *bench) ([]result, error) {
	few, err := b.longLog(ctx, fewEvents)
	if err != nil {
		return nil, err
	}
	many, err := b.longLog(ctx, logEvents)
	if err != nil {
		return nil, err
	}
	var short, long []float64
	for round := range b.rounds {
		b.round(round)
		var took [2][]float64
		for range asked {
			for i, l := range []longLog{few, many} {
				begin := time.Now()
				_, out, err := b.command(ctx, l, "status", "--json")
				if err != nil {
					return nil, err
				}
				took[i] = append(took[i], milliseconds(time.Since(begin)))
				if n := strings.Count(out, `"status":"live"`); n != sampleDeployments {
					return nil, fmt.Errorf("status shows %d deployments as live, not %d", n, sampleDeployments)
				}
			}
		}
		short, long = append(short, median(took[0])), append(long, median(took[1]))
	}
	rebuilt, _, err := b.command(ctx, many, "projections", "rebuild")
	if err != nil {
		return nil, err
	}
	return []result{
		compare("`status`, 1,000,000 events", "10,000 events", "ms", long, short, target{max: 1.2}),
		value("peak of `projections rebuild`, 1,000,000 events", "MiB", []float64{peak(rebuilt)}, target{max: 100}),
	}, nil
}
