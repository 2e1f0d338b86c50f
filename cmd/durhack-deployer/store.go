package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

// withStore runs f with the configuration and the open log. A private cluster
// that is stopped is started for as long as f needs it.
func (c *cli) withStore(ctx context.Context, f func(cfg *config.Config, store *daemon.Store) error) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	store, err := daemon.OpenStore(ctx, cfg, c.logger(slog.LevelWarn), false)
	if err != nil {
		return err
	}
	defer store.Close()
	return f(cfg, store)
}

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
