package pm2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/flock"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// maxSocket is what the kernel takes as the path of a socket. With a longer one pm2
// waits for ever.
const maxSocket = 107

// proc is one process in pm2's list.
type proc struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
	ID   int    `json:"pm_id"`
	Env  struct {
		Status     string `json:"status"`
		Cwd        string `json:"pm_cwd"`
		ErrLog     string `json:"pm_err_log_path"`
		Restarts   int    `json:"restart_time"`
		Unstable   int    `json:"unstable_restarts"`
		ExitCode   int    `json:"exit_code"`
		Namespace  string `json:"namespace"`
		Deployment string `json:"DURHACK_DEPLOYMENT"`
		Definition string `json:"DURHACK_DEFINITION"`
		Commit     string `json:"DURHACK_COMMIT"`
	} `json:"pm2_env"`
}

// daemon takes the lock of pm2's home and makes sure that its list is whole: without
// its daemon, the first command would start one with no apps, and the save at the end
// would drop those of everybody else.
func (r *run) daemon(ctx context.Context, env handlers.Env) error {
	home := r.home(env)
	socket := filepath.Join(home, "rpc.sock")
	if !filepath.IsAbs(home) || len(socket) > maxSocket {
		return fmt.Errorf("%s is no absolute path of at most %d bytes, which is what pm2 can use; set pm2_home", socket, maxSocket)
	}
	if err := os.MkdirAll(home, 0o755); err != nil { //nolint:gosec // as pm2 makes it
		return err
	}
	file, err := os.OpenFile(filepath.Join(home, "durhack-deployer.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if held, err := flock.Try(file, flock.Exclusive); err != nil || !held {
		env.Say("another deployment works with pm2 in %s: waiting for it", home)
		if err := flock.Lock(ctx, file, flock.Exclusive); err != nil {
			_ = file.Close()
			return err
		}
	}
	r.lock = file
	if !answers(socket) {
		if err := r.startDaemon(ctx, env, home, socket); err != nil {
			return err
		}
	}
	if own := cgroup("self"); inService(own) && own == cgroup(daemonPID(home)) {
		env.Say("pm2's daemon runs inside our own service: restarting the deployer ends all its apps. %s", advice(home))
	}
	procs, err := r.list(ctx, env)
	if err != nil {
		return err
	}
	for _, p := range procs {
		for _, a := range r.apps {
			if p.Name == a.name && !r.owns(p) {
				return fmt.Errorf("the app %q runs already and belongs to %s; change instance_name, or delete it with pm2", p.Name, r.owner(p))
			}
			if p.Env.Namespace == a.name && !r.owns(p) {
				return fmt.Errorf("%q is the namespace of the app %q: pm2 would take one for the other", a.name, p.Name)
			}
		}
	}
	return nil
}

// startCalls are what root may be asked for: only under systemd is pm2's daemon a unit.
func startCalls() [][]string {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil
	}
	return [][]string{{names.VerbStartPM2}}
}

// startDaemon brings the daemon back with the apps of the last save.
func (r *run) startDaemon(ctx context.Context, env handlers.Env, home, socket string) error {
	if inService(cgroup("self")) {
		env.Say("pm2's daemon does not run: asking for the start of its unit")
		if err := env.AsRoot(ctx, nil, names.VerbStartPM2); err != nil {
			return fmt.Errorf("pm2's daemon does not run, and started from here it would end with the deployer's service. %s: %w", advice(home), err)
		}
	} else {
		env.Say("pm2's daemon does not run: starting it with the apps of its last save")
		if err := r.pm2(ctx, env, "ping"); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(home, "dump.pm2")); err == nil {
			if err := r.pm2(ctx, env, "resurrect"); err != nil { // what runs already is left as it is
				return err
			}
		}
	}
	for deadline := time.Now().Add(commandTimeout); !answers(socket); {
		if time.Now().After(deadline) {
			return fmt.Errorf("pm2's daemon was started and does not answer on %s", socket)
		}
		if !retry.Sleep(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

func advice(home string) string {
	return fmt.Sprintf("Run `pm2 startup systemd -u USER --hp %s` as root once, which gives it a unit, and name that as unit in [pm2] of helper.toml", filepath.Dir(home))
}

func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func daemonPID(home string) string {
	text, err := os.ReadFile(filepath.Join(home, "pm2.pid"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// cgroup is the control group of a process, by systemd's own hierarchy.
func cgroup(pid string) string {
	text, err := os.ReadFile(filepath.Join("/proc", filepath.Base(pid), "cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	return ""
}

func inService(cgroup string) bool { return strings.HasSuffix(cgroup, ".service") }

// list is what pm2 runs.
func (r *run) list(ctx context.Context, env handlers.Env) ([]proc, error) {
	var out bytes.Buffer
	quiet := env
	quiet.Out = &out
	if err := r.pm2(ctx, quiet, "jlist"); err != nil {
		env.Say("%s", out.String())
		return nil, err
	}
	return parseList(out.Bytes())
}

// parseList skips what pm2 writes before the list, as that its daemon has another version.
func parseList(out []byte) ([]proc, error) {
	for line := range bytes.Lines(out) {
		if line = bytes.TrimSpace(line); bytes.HasPrefix(line, []byte("[{")) || bytes.Equal(line, []byte("[]")) {
			var procs []proc
			if err := json.Unmarshal(line, &procs); err != nil {
				return nil, fmt.Errorf("the list of pm2 cannot be read: %w", err)
			}
			return procs, nil
		}
	}
	return nil, errors.New("pm2 printed no list of its apps")
}

// owns says that an app is this deployment's. One that no deployment marked, as those
// of the Python deployer, is ours where it runs inside of our path.
func (r *run) owns(p proc) bool {
	if p.Env.Deployment != "" {
		return p.Env.Deployment == r.job.Deployment
	}
	return slices.Contains(r.earlier, p.Name) || inside(p.Env.Cwd, r.root())
}

func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (r *run) owner(p proc) string {
	if p.Env.Deployment != "" {
		return "deployment " + strconv.Quote(p.Env.Deployment)
	}
	return "no deployment; it runs in " + p.Env.Cwd
}
