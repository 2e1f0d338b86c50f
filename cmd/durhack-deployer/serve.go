package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) serveCommand() *cobra.Command {
	return c.daemonCommand("serve", "Run the whole daemon: listener, router and workers",
		`Runs the listener and the workers in one process. Pushes are accepted while the
database is away; they wait in the queue. SIGTERM and SIGHUP drain: a running
deploy may finish within its grace, pushes are accepted until then, what is
left waits for the next start. A second signal gives up at once.
Sockets that systemd passes (durhack-deployer.socket) are listened on in place
of [listen], and keep pushes waiting over a restart.
Where the configuration is refused, the last good one is used until it is
corrected, and the log and /readyz say so.`, true, true)
}

func (c *cli) listenCommand() *cobra.Command {
	return c.daemonCommand("listen", "Run only the listener: HTTP in, queue files out",
		`Runs only the listener. It needs the webhook secret and write access to
{state_dir}/queues/main: no database, no lock server, no checkout. Run "work"
beside it, as another user if you like; they share nothing but that directory.`, true, false)
}

func (c *cli) workCommand() *cobra.Command {
	return c.daemonCommand("work", "Run only the router and the workers",
		`Runs the router, the projections and a worker for each deployment. It needs no
webhook secret and opens no public port; "listen" fills its main queue.`, false, true)
}

func (c *cli) daemonCommand(use, short, long string, listen, work bool) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := c.logger(slog.LevelInfo)
			cfg, refused, err := c.daemonConfig(use, listen, work, log)
			if err != nil {
				return err
			}
			if listen {
				raiseProcs()
			}
			for _, w := range cfg.Warnings {
				log.Warn("configuration", "warning", w.String())
			}
			sockets, err := activation.Listeners()
			if err == nil && slices.Contains(sockets, nil) {
				err = errors.New("systemd passed something that is not a stream socket: durhack-deployer.socket must have ListenStream= only")
			}
			if err != nil {
				return fmt.Errorf("socket activation: %w", err)
			}
			if !listen && len(sockets) > 0 {
				log.Error("systemd passed a socket that this process does not use: nobody answers there; run `systemctl disable --now durhack-deployer.socket`", "addr", sockets[0].Addr().String())
			}
			return daemon.Run(cmd.Context(), daemon.Options{
				Config: cfg, Listen: listen, Work: work, Version: version().Version, Logger: log, Sockets: sockets,
				Program: use, Args: c.configPaths, Refused: refused,
			})
		},
	}
}

// daemonConfig loads the configuration. Where it is refused the last good one is
// used, and refused says why: a slip of the pen must not turn pushes away.
func (c *cli) daemonConfig(use string, listen, work bool, log *slog.Logger) (cfg *config.Config, refused, err error) {
	cfg, err = c.config()
	if err == nil {
		err = daemon.Refuse(cfg, listen, work)
	}
	if err == nil {
		return cfg, nil, nil
	}
	good, at, keptErr := config.LoadKept(use, c.configPaths, c.paths(), os.Getenv)
	if keptErr == nil {
		keptErr = daemon.Refuse(good, listen, work)
	}
	if keptErr != nil {
		if !errors.Is(keptErr, fs.ErrNotExist) {
			log.Error("the last good configuration cannot be used", "error", keptErr)
		}
		return nil, nil, err
	}
	for line := range strings.Lines(strings.TrimSpace(err.Error())) {
		log.Error("the configuration is refused: "+printable(strings.TrimSpace(line)), "using", "the last good one", "of", at.Local().Format(time.RFC3339))
	}
	return good, err, nil
}

// raiseProcs lets twice as many goroutines run as there are processors, unless
// the operator has set a number. A listener's are mostly waiting for the disk in
// a system call, and for as long as the runtime has not noticed, each of those
// keeps a processor from the others.
func raiseProcs() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}
