package pm2

import (
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
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// How settle looks.
const (
	lookEach = time.Second
	// slow is how long an app may take to be online at all.
	slow = time.Minute
	// tailLines of an app's error log are shown where it is down.
	tailLines = 20
)

// seen is what one look told of a process.
type seen struct{ pid, restarts, unstable int }

// settle looks at the apps until all of them have been up, as the same processes, for a
// while. A crash loop shows within seconds; an app that is up and broken does not.
func (r *run) settle(ctx context.Context, env handlers.Env) error {
	first := map[int]seen{}
	begin := time.Now()
	var whole time.Time // when all were up first
	for {
		procs, err := r.list(ctx, env)
		if err != nil {
			return err
		}
		waiting, err := r.look(procs, first)
		if err != nil {
			return err
		}
		now := time.Now()
		switch {
		case waiting == "":
			if whole.IsZero() {
				whole = now
			}
			if now.Sub(whole) >= r.Settle {
				return nil
			}
		case now.Sub(begin) > slow+r.Settle:
			return fmt.Errorf("%s after %s", waiting, now.Sub(begin).Round(time.Second))
		default:
			whole = time.Time{}
		}
		if !retry.Sleep(ctx, lookEach) {
			return context.Cause(ctx)
		}
	}
}

// look compares one list with what the file says and with the looks before. It says
// what is not up yet, or that something went down.
func (r *run) look(procs []proc, first map[int]seen) (waiting string, err error) {
	for _, a := range r.apps {
		count := 0
		for _, p := range procs {
			if p.Name != a.name {
				continue
			}
			count++
			now := seen{p.PID, p.Env.Restarts, p.Env.Unstable}
			before, known := first[p.ID]
			again := known && now != before
			switch {
			case a.once && p.Env.ExitCode == 0 && (p.Env.Status == "stopped" || a.cron && again): // pm2 starts it by the clock only
				first[p.ID] = now
			case p.Env.Status == "launching" || p.Env.Status == "stopping":
				waiting = fmt.Sprintf("%s is still %s", a.name, p.Env.Status)
			case p.Env.Status != "online":
				return "", fmt.Errorf("%s is %s (exit code %d)%s", a.name, p.Env.Status, p.Env.ExitCode, tail(p.Env.ErrLog))
			case again && a.cron && !a.once && now.unstable <= before.unstable:
				first[p.ID] = now
				waiting = fmt.Sprintf("%s did not stay up: it was started again, by its cron_restart or because it ended (exit code %d)", a.name, p.Env.ExitCode)
			case again:
				return "", fmt.Errorf("%s ended and was started again (exit code %d)%s", a.name, p.Env.ExitCode, tail(p.Env.ErrLog))
			case r.elsewhere(p.PID):
				return "", fmt.Errorf("%s still runs in another release than %s", a.name, r.Path)
			case p.Env.Cwd != a.cwd:
				return "", fmt.Errorf("%s runs in %s, and the file says %s", a.name, p.Env.Cwd, a.cwd)
			case a.script != "" && p.Env.Script != a.script:
				return "", fmt.Errorf("%s runs %s, and the file says %s", a.name, p.Env.Script, a.script)
			default:
				first[p.ID] = now
			}
		}
		if count == 0 || a.instances > 0 && count != a.instances {
			return "", fmt.Errorf("%s runs %d times, and the file says %d", a.name, count, max(a.instances, 1))
		}
	}
	return waiting, nil
}

// elsewhere says that a process works in another release.
func (r *run) elsewhere(pid int) bool {
	at, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil || r.Current == "" {
		return false
	}
	own, err := filepath.EvalSymlinks(r.Path)
	return err == nil && inside(at, filepath.Dir(own)) && !inside(at, own)
}

// tail is the end of an app's error log, on lines of its own.
func tail(path string) string {
	f, info, err := durable.OpenRegular(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 8 << 10
	from := max(0, info.Size()-most)
	text, _ := io.ReadAll(io.NewSectionReader(f, from, most))
	lines := slices.Collect(strings.Lines(strings.TrimSpace(string(text))))
	if from > 0 && len(lines) > 1 { // of the first only a piece
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return ""
	}
	return "; the end of " + path + ":\n" + strings.Join(lines[max(0, len(lines)-tailLines):], "")
}
