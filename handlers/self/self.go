// Package self is the handler by which the deployer deploys itself: it builds the
// commit, tries what it has built, puts a link to it in place, and hands over to the
// next process. That process tells the end: it was ready for a while, or the one before
// it runs again. Where nothing of ours comes up, the guard (deploy/systemd/guard.sh),
// which no release replaces, puts the link back.
package self

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// The defaults of Config.
const (
	DefaultDir       = "/opt/durhack-deployer"
	DefaultReadyFor  = 30 * time.Second
	DefaultProbation = 5 * time.Minute
)

const (
	checkWithin   = 2 * time.Minute
	migrateWithin = 10 * time.Minute
)

// program is what is built, and what a release's directory holds.
const program = "durhack-deployer"

// Config is one deployment's.
type Config struct {
	Source source.Source
	// Dir holds releases, and current, the link to the one that runs; empty is DefaultDir.
	Dir string
	// StateDir is where the probation of a new version is noted.
	StateDir string
	// Unit is the unit of systemd that runs current.
	Unit string
	// ReadyFor is how long a new version must be ready, and Probation how long it may
	// take; 0 is the default.
	ReadyFor, Probation time.Duration
	// Schema is the version of the database's schema that this binary knows. OneWay
	// lets a commit change it, from which there is no way back.
	Schema int
	OneWay bool
	// Arguments name the configuration of this deployer, and Command is how it runs, as
	// "serve". Environment is what our own binary gets beside that of steps.
	Command     string
	Arguments   []string
	Environment []string
}

// Process is the daemon that runs the plan.
type Process struct {
	// Executable is its program.
	Executable string
	// Ready lists why it is not ready.
	Ready func(ctx context.Context) []string
	// HandOver lets it drain and end.
	HandOver func()
}

// Handler implements handlers.Handler and handlers.Resumer.
type Handler struct {
	cfg     Config
	process Process
}

// New returns the handler of one deployment. A process that runs no plan may be zero.
func New(cfg Config, process Process) *Handler {
	cfg.Dir = cmp.Or(cfg.Dir, DefaultDir)
	cfg.ReadyFor = cmp.Or(cfg.ReadyFor, DefaultReadyFor)
	cfg.Probation = cmp.Or(cfg.Probation, DefaultProbation)
	return &Handler{cfg, process}
}

func (h *Handler) releases() string              { return filepath.Join(h.cfg.Dir, "releases") }
func (h *Handler) release(version string) string { return filepath.Join(h.releases(), version) }
func (h *Handler) binary(version string) string  { return filepath.Join(h.release(version), program) }
func (h *Handler) current() string               { return filepath.Join(h.cfg.Dir, "current") }

// running is the release that this process is of; empty where it is of none.
func (h *Handler) running() string {
	dir := filepath.Dir(h.process.Executable)
	if releases, err := filepath.EvalSymlinks(h.releases()); err != nil || filepath.Dir(dir) != releases {
		return ""
	}
	return filepath.Base(dir)
}

// Plan implements handlers.Handler.
func (h *Handler) Plan(_ context.Context, job handlers.Job) (handlers.Plan, error) {
	steps, err := h.cfg.Source.Checkout(job)
	if err != nil {
		return handlers.Plan{}, err
	}
	to := job.Commit
	step := func(name, describe string, timeout time.Duration, run func(context.Context, handlers.Env) error) {
		steps = append(steps, handlers.Step{Name: name, Describe: describe, Timeout: timeout, Run: func(ctx context.Context, env handlers.Env) error {
			if h.running() == to {
				env.Say("this version runs already")
				return nil
			}
			return run(ctx, env)
		}})
	}
	step("build", "look for the way back, and build "+h.release(to), 0, func(ctx context.Context, env handlers.Env) error { return h.build(ctx, env, to) })
	step("check", "try the new binary on the configuration", checkWithin, func(ctx context.Context, env handlers.Env) error { return h.check(ctx, env, to) })
	step("migrate", "bring the database schema up to date with the new binary, and run its doctor", migrateWithin, func(ctx context.Context, env handlers.Env) error { return h.migrate(ctx, env, to) })
	step("switch", fmt.Sprintf("put the link %s to it, drain and end; the new process tells how it went", h.current()), 0,
		func(_ context.Context, env handlers.Env) error { return h.switchTo(env, job) })
	return handlers.Plan{Steps: steps}, nil
}

// build looks for the way there and back, and makes a release, all at once. One that is
// there was built from the same commit.
func (h *Handler) build(ctx context.Context, env handlers.Env, to string) error {
	if problems := h.Problems(ctx, env); len(problems) > 0 {
		return fmt.Errorf("a release could not be put in place as docs/handlers/self.md says: %s", strings.Join(problems, "; "))
	}
	if from := h.running(); from == "" {
		return fmt.Errorf("this process runs %s, so no release of %s would take its place: set ExecStart=%s in %s, as docs/handlers/self.md says, and restart it",
			h.process.Executable, h.releases(), filepath.Join(h.current(), program), names.WholeUnit(h.cfg.Unit))
	} else if link, err := os.Readlink(h.current()); err != nil || filepath.Base(link) != from {
		return fmt.Errorf("%s leads to %s, and this process is of %s: restart the deployer first", h.current(), link, from)
	}
	if _, err := os.Stat(h.binary(to)); err == nil {
		env.Say("it was built before")
		return nil
	}
	h.prune() // builds that failed leave theirs, and the disk is to have room for this one
	fresh := h.release(halfMade + to)
	if err := os.MkdirAll(fresh, 0o755); err != nil { //nolint:gosec // others run it, as the listener
		return fmt.Errorf("make a directory for the release: %w", err)
	}
	err := h.cfg.Source.Run(ctx, env, h.cfg.Source.Path, []string{"CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOTOOLCHAIN=local"},
		"go", "build", "-trimpath", "-ldflags", "-X main.commit="+to, "-o", fresh+"/", "./cmd/"+program)
	if err != nil {
		return err
	}
	if err := sync(filepath.Join(fresh, program), fresh); err != nil {
		return fmt.Errorf("put the release on disk: %w", err)
	}
	if err := os.RemoveAll(h.release(to)); err != nil { // which has no program
		return err
	}
	return errors.Join(os.Rename(fresh, h.release(to)), sync(h.releases()))
}

// sync puts files and directories on disk.
func sync(paths ...string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = f.Sync()
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// ours runs the new binary with what the daemon itself has; its output goes to said, too,
// where that is not nil.
func (h *Handler) ours(ctx context.Context, env handlers.Env, said *bytes.Buffer, to string, args ...string) error {
	if said != nil {
		env.Out = said
	}
	argv := append(append([]string{h.binary(to)}, args...), h.cfg.Arguments...)
	// In the daemon's own directory, against which the paths of its configuration count.
	return env.Run(ctx, "", h.cfg.Environment, argv...)
}

// check tries what can be tried before anything is changed.
func (h *Handler) check(ctx context.Context, env handlers.Env, to string) error {
	var said bytes.Buffer
	var version struct {
		Revision string `json:"revision"`
		Schema   int    `json:"schema"`
	}
	if err := h.ours(ctx, env, &said, to, "version", "--json"); err != nil {
		return saying(err, &said)
	}
	for line := range bytes.Lines(said.Bytes()) {
		_ = json.Unmarshal(line, &version) // of a line that is none, nothing
	}
	if version.Revision != to {
		return fmt.Errorf("the new binary says that it is of commit %q: %s", version.Revision, bytes.TrimSpace(said.Bytes()))
	}
	if version.Schema != h.cfg.Schema && !h.cfg.OneWay {
		return fmt.Errorf("commit %.12s changes the database's schema from version %d to %d, and this version could not go on with that if the new one does not come up: make a backup, and set schema_change = \"allow\" in [deployments.%s.self]",
			to, h.cfg.Schema, version.Schema, env.Job.Deployment)
	}
	return h.ours(ctx, env, nil, to, "config", "check", "--for", h.cfg.Command)
}

// saying is how a program ended, with what it said, if it said anything.
func saying(err error, said *bytes.Buffer) error {
	if text := bytes.TrimSpace(said.Bytes()); len(text) > 0 {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// keepsFromStarting are the checks of doctor without which a daemon does not work at all.
var keepsFromStarting = map[string]bool{"configuration": true, "secret": true, "state_dir": true, "queues": true, "database": true, "projections": true}

// migrate brings the schema up to date, and asks the new binary's doctor.
func (h *Handler) migrate(ctx context.Context, env handlers.Env, to string) error {
	if err := h.ours(ctx, env, nil, to, "migrate"); err != nil {
		return err
	}
	var said bytes.Buffer
	asked := h.ours(ctx, env, &said, to, "doctor", "--json")
	var fatal []string
	for line := range bytes.Lines(said.Bytes()) {
		var finding struct{ Check, Level, Text string }
		if json.Unmarshal(line, &finding) != nil || finding.Level != "fail" {
			continue
		}
		env.Say("doctor: %s: %s", finding.Check, finding.Text)
		asked = nil // it ended with 1 for that
		if keepsFromStarting[finding.Check] {
			fatal = append(fatal, finding.Check+": "+finding.Text)
		}
	}
	if asked != nil {
		return fmt.Errorf("the new binary's doctor: %w", saying(asked, &said))
	}
	if len(fatal) > 0 {
		return fmt.Errorf("the new binary would not work: %s", strings.Join(fatal, "; "))
	}
	return nil
}

// switchTo notes the probation, puts the link to the new version, and hands over. It is
// one step, so that nothing ends a run between the two.
func (h *Handler) switchTo(env handlers.Env, job handlers.Job) error {
	p := probation{
		From: h.running(), To: job.Commit, DeliveryID: job.DeliveryID, Attempt: job.Attempt,
		Deadline: time.Now().Add(h.cfg.Probation).Unix(), OneWay: h.cfg.OneWay,
	}
	if err := h.begin(p); err != nil {
		return err
	}
	if err := h.point(p.To); err != nil {
		return err
	}
	env.Say("switched from %s to %s; this process ends, and the next one tells how it went", p.From, p.To)
	h.process.HandOver()
	return handlers.ErrHandedOver
}

// point puts the link to a version, in one step.
func (h *Handler) point(version string) error {
	fresh := h.current() + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put the link to a release: %w", err)
	}
	err := os.Symlink(filepath.Join("releases", version), fresh)
	if err == nil {
		err = os.Rename(fresh, h.current())
	}
	if err == nil {
		err = sync(h.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("put the link to a release: %w", err)
	}
	return nil
}

// Problems lists what keeps a release from taking the place of this one, or from
// making way for it again.
func (h *Handler) Problems(ctx context.Context, env handlers.Env) []string {
	var problems []string
	link, err := os.Readlink(h.current())
	if err != nil || filepath.Dir(link) != "releases" || !names.Plain(filepath.Base(link)) {
		problems = append(problems, fmt.Sprintf("%s is not a link to releases/NAME: put the first release in place by hand", h.current()))
	} else if _, err := os.Stat(filepath.Join(h.current(), program)); err != nil {
		problems = append(problems, fmt.Sprintf("%s leads to %s, which holds no %s: put it to a release that does (ln -sfn releases/NAME %[1]s)", h.current(), link, program))
	}
	for _, dir := range []string{h.cfg.Dir, h.releases()} {
		if unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
			problems = append(problems, fmt.Sprintf("%s cannot be written by this user: give it the directory (chown)", dir))
		}
	}
	if h.cfg.Unit == "" || !runsUnder(names.WholeUnit(h.cfg.Unit)) {
		return problems
	}
	var said bytes.Buffer
	env.Out = &said
	unit := names.WholeUnit(h.cfg.Unit)
	if err := env.Run(ctx, "/", nil, "systemctl", "show", "--property=ExecStart,ExecStartPre,Restart,TimeoutStartUSec", "--", unit); err != nil {
		return append(problems, fmt.Sprintf("systemd does not tell of %s: %v: %s", unit, err, bytes.TrimSpace(said.Bytes())))
	}
	return append(problems, h.unitProblems(unit, said.String())...)
}

// runsUnder says whether this host is one whose systemd has the unit.
func runsUnder(unit string) bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil && unit != ""
}

// unitProblems looks at the properties of the unit.
func (h *Handler) unitProblems(unit, properties string) []string {
	var problems []string
	for _, want := range []struct{ property, text, line string }{
		{"ExecStart", "path=" + filepath.Join(h.current(), program) + " ", "ExecStart=" + filepath.Join(h.current(), program) + " " + cmp.Or(h.cfg.Command, "serve")},
		{"ExecStartPre", "argv[]=/usr/local/lib/durhack-deployer/guard " + h.cfg.Dir + " ", "ExecStartPre=-/usr/local/lib/durhack-deployer/guard " + h.cfg.Dir},
		{"Restart", "always", "Restart=always"},
	} {
		found := false
		for line := range strings.Lines(properties) {
			name, value, _ := strings.Cut(line, "=")
			found = found || name == want.property && strings.Contains(value, want.text)
		}
		if !found {
			problems = append(problems, fmt.Sprintf("%s has no %s", unit, want.line))
		}
	}
	if strings.Contains(properties, "TimeoutStartUSec=infinity\n") {
		problems = append(problems, unit+" waits for ever for a version that hangs: set TimeoutStartSec=60s")
	}
	return problems
}
