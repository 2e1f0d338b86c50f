package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) configCommand() *cobra.Command {
	return group("config", "Check or show the configuration", c.configCheckCommand(), c.configShowCommand())
}

func (c *cli) configCheckCommand() *cobra.Command {
	var asJSON bool
	var program string
	cmd := &cobra.Command{
		Use: "check [--for COMMAND] [--json]", Short: "Check the configuration",
		Long: `Reads the configuration and reports everything that is wrong with it: file,
line, the key, and the nearest known key. Exit 0 means that serve, or the
command that --for names, would start with all of its parts; it also starts where
only credentials of [github] or [[notify]] cannot be used.
With --json each error and each warning is an object on standard output.`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if !slices.Contains([]string{"serve", "listen", "work"}, program) {
				return usagef("--for must be serve, listen or work, not %q", program)
			}
			refuse := func() error { return daemon.Wrong(cfg, program != "work", program != "listen") }
			if asJSON {
				return c.checkJSON(cfg, err, refuse)
			}
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintf(c.err, "warning: %s\n", printable(w.String()))
			}
			if idle := daemon.IdleLimits(cfg); idle != "" {
				fmt.Fprintf(c.err, "warning: %s\n", idle)
			}
			if err := refuse(); err != nil {
				return err
			}
			enabled := 0
			for _, d := range cfg.Deployments {
				if d.Enabled {
					enabled++
				}
			}
			_, err = fmt.Fprintf(c.out, "ok: instance %s, %s, %d enabled\n", cfg.Instance, words.Counted(int64(len(cfg.Deployments)), "deployment", "deployments"), enabled)
			return err
		},
	}
	cmd.Flags().StringVar(&program, "for", "serve", "say whether this `COMMAND` would start: serve, listen or work")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// configFinding is a line of `config check --json`. File, line, column and key
// are left out where they are not known.
type configFinding struct {
	Level      string `json:"level"` // error or warning
	File       string `json:"file,omitempty"`
	Line       int    `json:"line,omitempty"`
	Column     int    `json:"column,omitempty"`
	Key        string `json:"key,omitempty"`
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"`
}

// checkJSON prints what is wrong with a configuration, or with the attempt to
// load one, and returns what config check ends with.
func (c *cli) checkJSON(cfg *config.Config, err error, refuse func() error) error {
	if err == nil {
		for _, w := range cfg.Warnings {
			if err := writeJSON(c.out, configFinding{Level: "warning", File: w.File, Line: w.Line, Key: w.Key, Message: w.Message}); err != nil {
				return err
			}
		}
		if idle := daemon.IdleLimits(cfg); idle != "" {
			if err := writeJSON(c.out, configFinding{Level: "warning", Message: idle}); err != nil {
				return err
			}
		}
		err = refuse()
	}
	var one *config.Error
	var many *config.Errors
	var list []*config.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &many):
		list = many.List
	case errors.As(err, &one):
		list = []*config.Error{one}
	default:
		list = []*config.Error{{Message: err.Error()}}
	}
	for _, e := range list {
		if err := writeJSON(c.out, configFinding{"error", e.File, e.Line, e.Column, e.Key, e.Message, e.Suggestion}); err != nil {
			return err
		}
	}
	return err
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
			t := c.newTable(column{name: "KEY"}, column{name: "VALUE", text: true}, column{name: "FROM"})
			for _, v := range cfg.Origins() {
				t.row(v.Key, v.TOML(), v.Origin())
			}
			return t.flush()
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
