package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Bring the database schema up to date",
		Long: `Runs the embedded migrations behind an advisory lock, so that several may start
at once. "serve" and "work" do the same when they start. A schema that is newer
than this binary is refused.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			store, err := daemon.OpenStore(cmd.Context(), cfg, c.logger(slog.LevelInfo), true)
			if err != nil {
				return err
			}
			defer store.Close()
			return store.DescribeSchema(cmd.Context(), c.out)
		},
	}
}
