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
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
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
				_, err = fmt.Fprintf(c.out, "exported %s and %s to %s\n", counted(s.Events, "event", "events"), counted(s.Bodies, "body", "bodies"), printable(args[0]))
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
		_, err = fmt.Fprintf(c.out, "imported %s and %s of %s\n", counted(s.Events, "event", "events"),
			counted(s.Bodies, "body", "bodies"), printable(orDash(strings.Join(s.Instances, ", "))))
	}
	if err != nil {
		return err
	}
	if o.Checkpoint != nil && s.Signed < s.Events {
		fmt.Fprintf(c.err, "note: the signature covers the first %s, and not the %d after them\n", counted(s.Signed, "event", "events"), s.Events-s.Signed)
	}
	if s.Events > 0 && !slices.Contains(s.Instances, cfg.Instance) {
		fmt.Fprintf(c.err, "hint: it has no events of this configuration's instance, %s, and commands show no other\n", printable(cfg.Instance))
		return nil
	}
	return c.warnOfPending(ctx, cfg, store)
}

// warnOfPending says what a daemon would run, if there is anything.
func (c *cli) warnOfPending(ctx context.Context, cfg *config.Config, store *daemon.Store) error {
	state, err := projections.FoldAt(store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance}))
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
		fmt.Fprintf(c.err, "warning: %s when it was exported: a daemon of this instance would run them\n", counted(int64(pending), "deploy had not ended", "deploys had not ended"))
	}
	return nil
}
