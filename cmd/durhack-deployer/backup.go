package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/archive"
	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
)

func (c *cli) backupCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "backup FILE [--json]", Short: "Write everything that cannot be rebuilt to a file, and check the file",
		Long: `Writes the log of all instances, with the stored bodies, the hash of it all and
the checkpoint, to a new file that you alone can read, and reads it again to check
it. The daemon may run meanwhile, and a private Postgres that is stopped is
started for as long. An empty log is an error: that is hardly the right database.

The file is that of "log export". It does not hold the configuration, the
secrets and the signing key, the run logs, and what waits in queues/main and is
not in the log yet.`,
		Example: `  durhack-deployer backup /var/backups/durhack-deployer-$(date +%F).jsonl`,
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if name == "-" {
				return usagef("backup: name a file, which is read again to check it; `log export -` writes to standard output")
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				s, err := c.exportLog(cmd.Context(), cfg, store, name, true)
				if err != nil {
					return err
				}
				if err := checkBackup(name, s); err != nil {
					return errors.Join(err, os.Remove(name))
				}
				if asJSON {
					return writeJSON(c.out, newArchiveRow(name, s))
				}
				_, err = fmt.Fprintf(c.out, "backed up %s and %s to %s, the last of %s\n", counted(s.Events, "event", "events"),
					counted(s.Bodies, "body", "bodies"), printable(name), clock(s.Last))
				return err
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// checkBackup reads a backup again.
func checkBackup(name string, want archive.Summary) error {
	if want.Events == 0 {
		return &hintedError{errors.New("the log is empty: there is nothing to back up"),
			"is it the right database? `durhack-deployer config show` says which one is used"}
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read the backup again: %w", err)
	}
	defer f.Close()
	got, err := archive.Check(f)
	if err == nil && (got.Events != want.Events || got.Root != want.Root) {
		err = errors.New("it holds something else than was written")
	}
	if err != nil {
		return fmt.Errorf("read the backup again: %w", err)
	}
	return nil
}

func (c *cli) restoreCommand() *cobra.Command {
	var asJSON bool
	var public string
	cmd := &cobra.Command{
		Use: "restore FILE [--key KEY] [--json]", Short: "Read a backup into an empty log, and verify all of it",
		Long: `Reads a file of "backup" into the configured database, or without database_url
into a private Postgres, which is made where there is none. All of it or nothing:
the log must be empty, and no worker may run on it; a daemon that is started
meanwhile waits. The read models and the queues of the deployments are made from
the log, the checkpoint is put in its place in state_dir, unless one is there,
and everything is verified.

A daemon of the same instance then runs what was still waiting when the backup
was made: look at "status" before you start it. --key is that of "log import".`,
		Example: `  systemctl stop durhack-deployer
  durhack-deployer restore /var/backups/durhack-deployer-2026-01-31.jsonl
  systemctl start durhack-deployer`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.importFile(cmd.Context(), args[0], public, asJSON, c.restored)
		},
	}
	cmd.Flags().StringVar(&public, "key", "", "the verifier `KEY` whose signature the file's checkpoint must bear")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// restored puts in order what belongs to a log that was just read, and verifies it.
func (c *cli) restored(ctx context.Context, cfg *config.Config, store *daemon.Store, s archive.Summary) error {
	if s.Events == 0 {
		return &hintedError{errors.New("the backup is empty: nothing was restored"), "name another file"}
	}
	log := c.logger(slog.LevelWarn)
	if s.Checkpoint != "" {
		err := durable.CreateFile(signer.Path(cfg.StateDir), []byte(s.Checkpoint), 0o644)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keep the checkpoint of the backup: %w", err)
		}
	}
	if err := daemon.RebuildQueues(ctx, cfg, store, log); err != nil {
		return err
	}
	v, err := check.Verify(ctx, cfg, store, log, check.VerifyOptions{})
	if err != nil {
		return fmt.Errorf("verify what was restored: %w", err)
	}
	for _, n := range v.Notes {
		fmt.Fprintf(c.err, "note: %s\n", printable(n))
	}
	for _, b := range v.Breaches {
		fmt.Fprintf(c.err, "breach: %s\n", printable(b))
	}
	if len(v.Breaches) > 0 {
		return &hintedError{
			fmt.Errorf("the backup was restored, but verify finds %s", counted(int64(len(v.Breaches)), "breach", "breaches")),
			"where the log ends before the checkpoint that was signed last, move " + signer.Path(cfg.StateDir) + " away (and keep it); see Back up and restore in docs/operations.md",
		}
	}
	fmt.Fprintf(c.err, "verified: the log ends at event %d, of %s (%s); what came later is not in it\n", s.Events, clock(s.Last), ago(time.Since(s.Last)))
	return nil
}
