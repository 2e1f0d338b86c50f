package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/ducompsoc/durhack-deployer/handlers/self"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// selfHandler is the handler of the deployer's own deployment; o is zero outside of a daemon.
func selfHandler(cfg *config.Config, d *config.Deployment, src source.Source, o Options) (*self.Handler, error) {
	schema, err := migrations.Version()
	if err != nil {
		return nil, err
	}
	c := self.Config{
		Source: src, Dir: d.Self.Dir, StateDir: filepath.Join(cfg.StateDir, "self"), Unit: d.SystemdUnitName,
		ReadyFor: d.Self.ReadyFor, Probation: d.Self.Probation,
		Schema: schema, OneWay: d.Self.SchemaChange == config.SchemaChangeAllow,
		Command: o.Program, Environment: ownEnvironment(os.Environ()),
	}
	for _, path := range o.Args {
		c.Arguments = append(c.Arguments, "--config", path)
	}
	return self.New(c, o.process), nil
}

// ownEnvironment leaves out what systemd means for this process alone.
func ownEnvironment(environ []string) []string {
	var own []string
	for _, kv := range environ {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM":
		default:
			own = append(own, kv)
		}
	}
	return own
}

// thisProcess is the daemon as the handler self sees it.
func thisProcess(cfg *config.Config, log *slog.Logger, state *condition, stop func()) self.Process {
	executable, err := os.Executable()
	if err != nil {
		log.Warn("this process does not know its own program: it cannot deploy itself", "error", err)
	}
	return self.Process{
		Executable: executable,
		Ready: func(ctx context.Context) []string {
			reasons := []string{}
			for _, check := range state.checks(cfg) {
				_, why := check.Run(ctx)
				reasons = append(reasons, why...)
			}
			return reasons
		},
		HandOver: func() {
			log.Info("making way for the next process")
			stop()
		},
	}
}
