package nginx

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// pollEach is how often the workers are looked for.
const pollEach = 20 * time.Millisecond

// master is nginx's master process.
func (r *run) master() (process.Stat, error) {
	text, err := os.ReadFile(r.cfg.PIDFile)
	if err != nil {
		return process.Stat{}, fmt.Errorf("nginx does not run: %w; start it, or say where its pid file is with pid_file", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return process.Stat{}, fmt.Errorf("nginx does not run: its pid file %s says %q; start it", r.cfg.PIDFile, text)
	}
	stat, found := process.ReadStat(pid)
	if !found || !stat.Alive() {
		return process.Stat{}, fmt.Errorf("nginx does not run: there is no process %d, which %s names; start it", pid, r.cfg.PIDFile)
	}
	return stat, nil
}

// callReload has nginx reloaded, and sees it: a worker that was not there, of the same
// master. Neither an exit code nor nginx -t tells that a port is taken.
func (r *run) callReload(ctx context.Context, env handlers.Env) error {
	master, err := r.master()
	if err != nil {
		return err
	}
	before := process.Children(master.PID)
	begin := time.Now().Truncate(time.Second) // as exact as the times in its log
	var said bytes.Buffer
	if err := env.AsRoot(ctx, io.MultiWriter(&said, out(env)), names.VerbNginxReload); err != nil {
		var why []string
		if line, _, _ := strings.Cut(said.String(), "\n"); line != "" {
			why = []string{line}
		}
		return withLines(fmt.Errorf("reload %s: %w", r.cfg.Unit, err), append(why, r.errorsSince(ctx, env, begin)...))
	}
	within, cancel := context.WithTimeoutCause(ctx, r.cfg.ReloadWithin, fmt.Errorf("no new worker of nginx within %v: it goes on with what it had", r.cfg.ReloadWithin))
	defer cancel()
	poll := time.NewTicker(pollEach)
	defer poll.Stop()
	for {
		started, left := newWorkers(before, process.Children(master.PID))
		if started > 0 && left == 0 {
			env.Say("nginx serves it: process %d has %d new workers, and the old ones take no more requests", master.PID, started)
			return nil
		}
		if now, err := r.master(); err != nil || identity(now) != identity(master) {
			return withLines(fmt.Errorf("reload %s: nginx's master process %d is gone", r.cfg.Unit, master.PID), r.errorsSince(ctx, env, begin))
		}
		select {
		case <-within.Done():
			if started > 0 {
				env.Say("nginx serves it: process %d has %d new workers; %d old ones have not begun to end", master.PID, started, left)
				return nil
			}
			return withLines(fmt.Errorf("reload %s: %w", r.cfg.Unit, context.Cause(within)), r.errorsSince(context.WithoutCancel(ctx), env, begin))
		case <-poll.C:
		}
	}
}

// newWorkers counts the workers that were not there before, and those of before that
// may still take requests.
func newWorkers(before, now []process.Stat) (started, left int) {
	for _, w := range now {
		switch {
		case !slices.ContainsFunc(before, func(b process.Stat) bool { return identity(b) == identity(w) }):
			started++
		case !shutsDown(w.PID):
			left++
		}
	}
	return started, left
}

// shutsDown says whether a worker is one that ends when its last request does.
func shutsDown(pid int) bool {
	title, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return bytes.Contains(title, []byte("is shutting down"))
}

// identity is what tells a process from every other.
func identity(s process.Stat) process.Stat { return process.Stat{PID: s.PID, Start: s.Start} }

// errorsSince are the worst lines of nginx's error log from then on.
func (r *run) errorsSince(ctx context.Context, env handlers.Env, begin time.Time) []string {
	var said bytes.Buffer
	if err := env.AsRoot(ctx, &said, names.VerbNginxErrors); err != nil {
		return []string{fmt.Sprintf("its error log cannot be read: %v", err)}
	}
	var lines []string
	for line := range strings.Lines(said.String()) {
		line = strings.TrimSpace(line)
		const form = "2006/01/02 15:04:05"
		if at, err := time.ParseInLocation(form, line[:min(len(line), len(form))], time.Local); err == nil && at.Before(begin) {
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return unique(lines)
}
