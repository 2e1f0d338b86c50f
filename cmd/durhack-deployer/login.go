package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/dashboard"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) loginCommand() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "login [--url URL]", Short: "Print a link that lets your browser act in the dashboard",
		Long: `Prints a link to the dashboard that works once, within a minute. With it a browser may
deploy, replay, roll back, pin, freeze and cancel for a day, under your name: that of the
user who runs the command, or who ran it by sudo. Anyone who may use this command may act.

The link leads to [admin] url, where it is set, or else to [admin] host and port of this
host. From your own machine, reach that by a tunnel:

  ssh -L 3401:127.0.0.1:3401 HOST`,
		Example: `  sudo durhack-deployer login`,
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			base, err := dashboardURL(cfg, at)
			if err != nil {
				return err
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				logins := dashboard.Logins{Pool: store.Pool, Instance: cfg.Instance}
				token, err := logins.NewToken(cmd.Context(), actor())
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(c.out, "%s/login?token=%s\n", base, token); err != nil {
					return err
				}
				fmt.Fprintf(c.err, "note: it works once, until %s, and makes whoever opens it %s for a day\n", words.Clock(time.Now().Add(dashboard.TokenLasts)), printable(actor()))
				if runs, err := daemon.WorkerRuns(cfg); err == nil && !runs {
					fmt.Fprintf(c.err, "warning: nothing answers there: no worker runs on %s: start `durhack-deployer serve` or `work`\n", printable(cfg.StateDir))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&at, "url", "", "where your browser reaches the dashboard: `URL`, in place of the configured one")
	return cmd
}

// dashboardURL is where the dashboard is reached, without a trailing slash.
func dashboardURL(cfg *config.Config, at string) (string, error) {
	switch {
	case at != "":
		u, err := url.Parse(at)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" || u.User != nil {
			return "", usagef("--url: %q is not the address of a dashboard; write it like \"https://deploys.example.com\"", at)
		}
		return u.Scheme + "://" + u.Host, nil
	case cfg.Admin.URL != "":
		return cfg.Admin.URL, nil
	case cfg.Admin.Port == 0:
		return "", usagef("[admin] port is 0, so the system has chosen one: pass --url with the address that the daemon's log names at \"admin pages\"")
	}
	return daemon.AdminURL(cfg.Admin.HostPort), nil
}
