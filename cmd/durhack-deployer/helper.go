package main

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/helper"
)

func (c *cli) helperCommand() *cobra.Command {
	return &cobra.Command{
		Use: "helper", Short: "Do one thing that only root may, for the deployer, as root's rules allow",
		Long: `Answers one call of the deployer and ends: restart or reload a unit, test and
reload nginx, get a certificate, start pm2's unit. systemd starts it for each call
(durhack-deployer-helper.socket), or without systemd sudo does. What is allowed
stands in /etc/durhack-deployer/helper.toml, or the file that --config names, which
must belong to root and be writable by nobody else.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules := helper.DefaultRules
			if len(c.configPaths) > 0 {
				rules = c.configPaths[len(c.configPaths)-1]
			}
			in, ok := c.in.(*os.File)
			if !ok {
				return errors.New("standard input is neither a socket of systemd's nor a file")
			}
			return helper.Serve(cmd.Context(), in, c.out, func() (helper.Rules, error) { return helper.LoadRules(rules) }, c.logger(slog.LevelInfo))
		},
	}
}
