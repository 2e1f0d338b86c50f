package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) configCommand() *cobra.Command {
	return group("config", "Check or show the configuration", c.configCheckCommand(), c.configShowCommand())
}

func (c *cli) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Say whether the configuration is sound",
		Long: `Reads the configuration and reports everything that is wrong with it: file,
line, the key, and the nearest known key. Exit 0 means that serve would start.`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintf(c.err, "warning: %s\n", printable(w.String()))
			}
			if err := daemon.Refuse(cfg, true, true); err != nil {
				return err
			}
			enabled := 0
			for _, d := range cfg.Deployments {
				if d.Enabled {
					enabled++
				}
			}
			_, err = fmt.Fprintf(c.out, "ok: instance %s, %s, %d enabled\n", cfg.Instance, counted(int64(len(cfg.Deployments)), "deployment", "deployments"), enabled)
			return err
		},
	}
}

func (c *cli) configShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show [--json]", Short: "Print every setting, and which file it came from",
		Long: `Prints the effective settings, merged from all files, each with the file and
line it came from, or "default" or "environment". Secrets are masked.`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if asJSON {
				for _, v := range cfg.Origins() {
					if err := writeJSON(c.out, map[string]any{"key": v.Key, "value": v.Value, "from": v.Origin()}); err != nil {
						return err
					}
				}
				return nil
			}
			t := newTable(c.out, "KEY", "VALUE", "FROM")
			for _, v := range cfg.Origins() {
				t.row(v.Key, v.Value, v.Origin())
			}
			return t.flush()
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
