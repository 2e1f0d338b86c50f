package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/archive"
	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// archiveRow is what `log export --json` and `log import --json` print.
type archiveRow struct {
	File       string     `json:"file"`
	Events     int64      `json:"events"`
	Bodies     int64      `json:"bodies"`
	Instances  []string   `json:"instances"`
	Root       string     `json:"root"`
	Checkpoint bool       `json:"checkpoint"`
	Signed     int64      `json:"signed"`
	First      *time.Time `json:"first_recorded_at"`
	Last       *time.Time `json:"last_recorded_at"`
}

func newArchiveRow(file string, s archive.Summary) archiveRow {
	row := archiveRow{
		File: file, Events: s.Events, Bodies: s.Bodies, Instances: append([]string{}, s.Instances...),
		Root: hex.EncodeToString(s.Root[:]), Checkpoint: s.Checkpoint != "", Signed: s.Signed,
	}
	if s.Events > 0 {
		row.First, row.Last = &s.First, &s.Last
	}
	return row
}

func (c *cli) logExportCommand() *cobra.Command {
	var noBodies, asJSON bool
	cmd := &cobra.Command{
		Use: "export FILE [--no-bodies] [--json]", Short: "Write the whole log to a file",
		Long: `Writes the log of all instances, as it stands at this moment, to a new file of
JSON lines: the checkpoint that was signed last, every event with its exact bytes,
the stored bodies, and at the end the hashes that "log import" checks. It signs
nothing, and refuses a log that is not what was appended and signed, with the
position. To have all of it signed, run "checkpoint" first. The daemon may run
meanwhile. A FILE of "-" is standard output. Bodies hold what GitHub sent, such as names and addresses
of committers; --no-bodies leaves them out, and an import of that file cannot be
replayed. The file is readable by you alone.`,
		Example: `  durhack-deployer log export log.jsonl
  durhack-deployer log export - | zstd > log.jsonl.zst`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && (isTerminal(c.out) || asJSON) {
				return usagef("export: standard output is to be a file or a pipe, and then holds nothing but the log")
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				s, err := c.exportLog(cmd.Context(), cfg, store, args[0], !noBodies)
				if err != nil || args[0] == "-" {
					return err
				}
				if asJSON {
					return writeJSON(c.out, newArchiveRow(args[0], s))
				}
				_, err = fmt.Fprintf(c.out, "exported %s and %s to %s\n", words.Counted(s.Events, "event", "events"), words.Counted(s.Bodies, "body", "bodies"), printable(args[0]))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&noBodies, "no-bodies", false, "leave out what GitHub sent")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// exportLog writes the log to a new file, or to standard output.
func (c *cli) exportLog(ctx context.Context, cfg *config.Config, store *daemon.Store, name string, bodies bool) (archive.Summary, error) {
	progress, finish := c.progress("events written")
	defer finish()
	kept, err := daemon.KeptCheckpoint(cfg)
	if err != nil {
		return archive.Summary{}, err
	}
	s, err := c.export(ctx, store, name, archive.ExportOptions{Bodies: bodies, Checkpoint: kept, Progress: progress})
	switch {
	case errors.As(err, new(*eventlog.TreeError)):
		err = &hintedError{err, "`" + c.command("verify") + "` says what was changed; docs/operations.md what to do"}
	case errors.As(err, new(*archive.BodyError)):
		err = &hintedError{err, "`" + c.command("verify") + "` names each; `log export --no-bodies` leaves the bodies out"}
	}
	return s, err
}

// export writes to a new file, which is removed again where that fails.
func (c *cli) export(ctx context.Context, store *daemon.Store, name string, o archive.ExportOptions) (s archive.Summary, err error) {
	if name == "-" {
		return archive.Export(ctx, store.Log, c.out, o)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return s, &hintedError{fmt.Errorf("%s is there already", name), "name a new file: an export overwrites nothing"}
	}
	if err != nil {
		return s, fmt.Errorf("make the file: %w", err)
	}
	s, err = archive.Export(ctx, store.Log, f, o)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return s, errors.Join(err, os.Remove(name))
	}
	return s, nil
}

func (c *cli) logImportCommand() *cobra.Command {
	var asJSON bool
	var public string
	cmd := &cobra.Command{
		Use: "import FILE [--key KEY] [--json]", Short: "Read an exported log into an empty database",
		Long: `Reads a file of "log export" into the configured database, all of it or, where
anything is wrong with it, nothing: every line is checked on the way in, and the
hashes at the end. A log that has an event or a body in it is left alone. What
comes out is the same log, with the same positions, IDs, times and bytes. A
FILE of "-" is standard input.

It works as the owner of the log, as "migrate" does, which it does first. A
daemon of the same instance would run what was still waiting when the file was
written: look at "status" before you start one. --key names the verifier key
that "keygen" printed where the log was exported: then the file must hold a
checkpoint with its signature. Events after that checkpoint are counted in a note.`,
		Example: `  durhack-deployer log import log.jsonl`,
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.importFile(cmd.Context(), args[0], public, asJSON, nil)
		},
	}
	cmd.Flags().StringVar(&public, "key", "", "the verifier `KEY` whose signature the file's checkpoint must bear")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (c *cli) source(name string) (io.Reader, func(), error) {
	if name == "-" {
		return c.in, func() {}, nil
	}
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return nil, nil, fmt.Errorf("open the archive: %w", err)
	}
	return f, func() { f.Close() }, nil
}

// importFile reads an archive into the configured database, on which no worker may
// run meanwhile. then, if not nil, belongs to it.
func (c *cli) importFile(ctx context.Context, name, public string, asJSON bool,
	then func(context.Context, *config.Config, *daemon.Store, archive.Summary) error,
) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	var o archive.ImportOptions
	if public != "" {
		verifier, err := c.verifierKey(public)
		if err != nil {
			return err
		}
		o.Checkpoint = func(text string) error {
			_, err := checkpoint.Open([]byte(text), verifier)
			return err
		}
	}
	in, closeIn, err := c.source(name)
	if err != nil {
		return err
	}
	defer closeIn()
	store, err := daemon.OpenStore(ctx, cfg, c.logger(slog.LevelWarn), true)
	if err != nil {
		return err
	}
	defer store.Close()
	return c.importLog(ctx, cfg, store, name, in, o, asJSON, then)
}

func (c *cli) importLog(ctx context.Context, cfg *config.Config, store *daemon.Store, name string, in io.Reader, o archive.ImportOptions, asJSON bool,
	then func(context.Context, *config.Config, *daemon.Store, archive.Summary) error,
) error {
	progress, finish := c.progress("events read")
	o.Progress = progress
	var s archive.Summary
	err := store.Alone(ctx, func(conn *pgx.Conn) error {
		var err error
		s, err = archive.Import(ctx, conn, in, o)
		finish()
		if err != nil {
			return err
		}
		// So that status and verify can answer before a daemon has been started.
		if err := projections.New(store.Pool, store.Log, c.logger(slog.LevelWarn)).Rebuild(ctx, nil); err != nil {
			return fmt.Errorf("build the read models of the imported log: %w", err)
		}
		if then != nil {
			return then(ctx, cfg, store, s)
		}
		return nil
	})
	var full *archive.NotEmptyError
	var damaged *archive.DamagedError
	switch {
	case errors.As(err, &full):
		return &hintedError{err, "make an empty database and name it in database_url (or DATABASE_URL)"}
	case errors.As(err, &damaged):
		return &hintedError{err, "nothing was imported; export it again, or fetch the file again"}
	case errors.Is(err, daemon.ErrWorkerRuns):
		return &hintedError{err, "stop it (systemctl stop durhack-deployer), also on the other hosts that share the database; nothing was imported"}
	case err != nil:
		return err
	}
	if asJSON {
		err = writeJSON(c.out, newArchiveRow(name, s))
	} else {
		_, err = fmt.Fprintf(c.out, "imported %s and %s of %s\n", words.Counted(s.Events, "event", "events"),
			words.Counted(s.Bodies, "body", "bodies"), printable(orDash(strings.Join(s.Instances, ", "))))
	}
	if err != nil {
		return err
	}
	if o.Checkpoint != nil && s.Signed < s.Events {
		fmt.Fprintf(c.err, "note: the signature covers the first %s, and not the %d after them\n", words.Counted(s.Signed, "event", "events"), s.Events-s.Signed)
	}
	if s.Events > 0 && !slices.Contains(s.Instances, cfg.Instance) {
		fmt.Fprintf(c.err, "hint: it has no events of this configuration's instance, %s, and commands show no other\n", printable(cfg.Instance))
		return nil
	}
	return c.warnOfPending(ctx, cfg, store)
}

// warnOfPending says what a daemon would run, if there is anything.
func (c *cli) warnOfPending(ctx context.Context, cfg *config.Config, store *daemon.Store) error {
	state, err := projections.FoldOpen(store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance}))
	if err != nil {
		return err
	}
	pending := 0
	for _, a := range state.Attempts(cfg.Instance) {
		switch a.Outcome {
		case projections.OutcomeWaiting, projections.OutcomeRunning:
			pending++
		case projections.OutcomeInterrupted:
			if a.ContinuedBy == 0 {
				pending++
			}
		}
	}
	if pending > 0 {
		fmt.Fprintf(c.err, "warning: %s when it was exported: a daemon of this instance would run them\n", words.Counted(int64(pending), "deploy had not ended", "deploys had not ended"))
	}
	return nil
}

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
				_, err = fmt.Fprintf(c.out, "backed up %s and %s to %s, the last of %s\n", words.Counted(s.Events, "event", "events"),
					words.Counted(s.Bodies, "body", "bodies"), printable(name), words.Clock(s.Last))
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
	tell(c.err, "note", v.Notes)
	tell(c.err, "breach", v.Breaches)
	if len(v.Breaches) > 0 {
		return &hintedError{
			fmt.Errorf("the backup was restored, but verify finds %s", words.Counted(int64(len(v.Breaches)), "breach", "breaches")),
			"where the log ends before the checkpoint that was signed last, move " + signer.Path(cfg.StateDir) + " away (and keep it); see Back up and restore in docs/operations.md",
		}
	}
	fmt.Fprintf(c.err, "verified: the log ends at event %d, of %s (%s); what came later is not in it\n", s.Events, words.Clock(s.Last), ago(time.Since(s.Last)))
	return nil
}
