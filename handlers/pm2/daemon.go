package pm2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
		Script     string `json:"pm_exec_path"`
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
	file, err := lockFile(home)
	if err != nil {
		return fmt.Errorf("use pm2's home: %w; make it a directory that the user who deploys can write to, or set pm2_home", err)
	}
	waits := func() { env.Say("another deployment works with pm2 in %s: waiting for it", home) }
	if err := flock.Await(ctx, file, flock.Exclusive, waits); err != nil {
		_ = file.Close()
		return err
	}
	r.lock = file
	procs, err := r.whole(ctx, env)
	if err != nil {
		return err
	}
	if own := cgroup("self"); inService(own) && own == cgroup(strconv.Itoa(r.god)) {
		env.Say("pm2's daemon runs inside our own service: restarting the deployer ends all its apps. %s", advice(home))
	}
	for _, p := range procs {
		if r.owns(p) {
			continue
		}
		for _, a := range r.apps {
			space, _ := a.fields["namespace"].(string)
			switch {
			case p.Name == a.name:
				return fmt.Errorf("the app %q runs already and belongs to %s; change instance_name, or delete it with pm2", p.Name, r.owner(p))
			case p.Env.Namespace == a.name:
				return fmt.Errorf("%q is the namespace of the app %q: pm2 would take one for the other", a.name, p.Name)
			case p.Name == space:
				return fmt.Errorf("the namespace %q of %q is the name of an app of %s: pm2 would take one for the other", space, a.name, r.owner(p))
			}
		}
	}
	return nil
}

func lockFile(home string) (*os.File, error) {
	if err := os.MkdirAll(home, 0o755); err != nil { //nolint:gosec // as pm2 makes it
		return nil, err
	}
	return os.OpenFile(filepath.Join(home, "durhack-deployer.lock"), os.O_RDWR|os.O_CREATE, 0o600)
}

// whole makes sure that pm2's daemon runs with the apps of its last save, as far as
// others decide on them, and returns all that it runs.
func (r *run) whole(ctx context.Context, env handlers.Env) ([]proc, error) {
	home := r.home(env)
	r.god = 0
	if daemonAt(home) == 0 {
		if err := r.startDaemon(ctx, env, home); err != nil {
			return nil, err
		}
	}
	r.god = daemonAt(home)
	procs, err := r.list(ctx, env)
	if err != nil {
		return nil, err
	}
	lost, err := r.lost(home, procs)
	if len(lost) == 0 && err == nil {
		return procs, nil
	}
	if err != nil {
		env.Say("pm2's last save cannot be read: %v", err)
		if len(procs) > 0 {
			return procs, nil // the next save is a good one
		}
	} else {
		env.Say("pm2 does not run %s of its last save: bringing back what that has", strings.Join(lost, ", "))
	}
	if err := r.pm2(ctx, env, "resurrect"); err != nil { // what runs already is left as it is
		return nil, err
	}
	return r.list(ctx, env)
}

// lost are the apps of pm2's last save that it does not run and that others decide on:
// those of other deployments, or all where it runs none, as a daemon that somebody's
// command started. The next save would drop them for good.
func (r *run) lost(home string, procs []proc) (lost []string, err error) {
	text, err := os.ReadFile(filepath.Join(home, "dump.pm2"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var saved []struct {
		Name       string `json:"name"`
		Deployment string `json:"DURHACK_DEPLOYMENT"`
	}
	if err := json.Unmarshal(text, &saved); err != nil {
		return nil, fmt.Errorf("%s/dump.pm2: %w", home, err)
	}
	for _, s := range saved {
		theirs := s.Deployment != "" && s.Deployment != r.job.Deployment
		if (theirs || len(procs) == 0) && !slices.ContainsFunc(procs, func(p proc) bool { return p.Name == s.Name }) {
			lost = append(lost, s.Name)
		}
	}
	return lost, nil
}

// save lets pm2 bring the same apps back after a reboot, and those of others.
func (r *run) save(ctx context.Context, env handlers.Env) error {
	procs, err := r.list(ctx, env)
	if err != nil {
		return err
	}
	if lost, err := r.lost(r.home(env), procs); err == nil && len(lost) > 0 {
		return fmt.Errorf("not saved: pm2 does not run %s, which its last save has for other deployments; deploy those, or save yourself (pm2 save --force) if they are to go", strings.Join(lost, ", "))
	}
	return r.pm2(ctx, env, "save", "--force") // without --force it saves no empty list, and the old one would come back
}

// startCalls are what root may be asked for: only under systemd is pm2's daemon a unit.
func startCalls() [][]string {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil
	}
	return [][]string{{names.VerbStartPM2}}
}

// startDaemon starts the daemon.
func (r *run) startDaemon(ctx context.Context, env handlers.Env, home string) error {
	if inService(cgroup("self")) {
		env.Say("pm2's daemon does not run: asking for the start of its unit")
		if err := env.AsRoot(ctx, nil, names.VerbStartPM2); err != nil {
			return fmt.Errorf("pm2's daemon does not run, and started from here it would end with the deployer's service. %s: %w", advice(home), err)
		}
	} else {
		env.Say("pm2's daemon does not run: starting it")
		if err := r.pm2(ctx, env, "ping"); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(commandTimeout); daemonAt(home) == 0; {
		if time.Now().After(deadline) {
			return fmt.Errorf("pm2's daemon was started and does not answer on %s", filepath.Join(home, "rpc.sock"))
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

// daemonAt is the process that answers for pm2's home; 0 where none does.
func daemonAt(home string) int {
	conn, err := net.DialTimeout("unix", filepath.Join(home, "rpc.sock"), 5*time.Second)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	pid := -1 // somebody
	if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Pid > 0 {
				pid = int(cred.Pid)
			}
		})
	}
	return pid
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

// owns says that an app is this deployment's. One that no deployment marked is ours by
// its name; before the first deploy, as those of the Python deployer, only where it also
// runs inside of our path, or by that alone where no names are known.
func (r *run) owns(p proc) bool {
	switch within := inside(p.Env.Cwd, r.root()); {
	case p.Env.Deployment != "":
		return p.Env.Deployment == r.job.Deployment
	case r.earlier == nil:
		return within
	default:
		return slices.Contains(r.earlier, p.Name) && (within || !r.first)
	}
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
