package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

const product = "github.com/ducompsoc/durhack-deployer/cmd/durhack-deployer"

// bench is what the rows share. What costs something is made at first use.
type bench struct {
	dir      string
	rounds   int
	progress io.Writer

	binary  string
	cluster *localpg.Cluster
	made    int // databases, for their names
	logs    map[int]longLog
}

func newBench(parent string, rounds int, progress io.Writer) (*bench, error) {
	if parent == "" {
		parent = os.TempDir()
		if kind, err := fileSystem(parent); err == nil && kind == "tmpfs" {
			parent = "/var/tmp" // memory has no fsync worth measuring
		}
	}
	dir, err := os.MkdirTemp(parent, "durhack-deployer-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	// Where we are root, Postgres runs as somebody else and must get through.
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // 0711 lets nobody list it
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	spread(dir)
	return &bench{dir: dir, rounds: rounds, progress: progress, logs: map[int]longLog{}}, nil
}

// topDir is FS_TOPDIR_FL of ext4, the T of chattr(1).
const topDir = 0x00020000

// spread asks the file system to keep the directories inside dir far from one
// another. Without a journal ext4 is slow to make files where many were removed
// within the last minutes, so one row's removals would slow down the next. It is
// only a wish: other file systems refuse it, and have no need of it.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	fd := int(f.Fd())
	if flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags|topDir)
	}
}

// close stops and removes all that was made.
func (b *bench) close() error {
	var err error
	if b.cluster != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		err = b.cluster.Close(ctx)
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// scratch makes a directory on the disk that is measured. By its random name it
// also gets a place on the disk that the last run did not use; see spread.
func (b *bench) scratch(name string) (string, error) {
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711) //nolint:gosec // as in newBench
}

// program builds the deployer as a release is built.
func (b *bench) program(ctx context.Context) (string, error) {
	if b.binary != "" {
		return b.binary, nil
	}
	path := filepath.Join(b.dir, "durhack-deployer")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, product)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the deployer (run this inside its repository): %w\n%s", err, out)
	}
	b.binary = path
	return path, nil
}

// database makes an empty database in a private Postgres that survives power
// loss, as the daemon's own does.
func (b *bench) database(ctx context.Context) (dsn string, err error) {
	if b.cluster == nil {
		c, err := localpg.Open(ctx, localpg.Config{
			Dir: filepath.Join(b.dir, "postgres"), Log: slog.New(slog.DiscardHandler), Durable: true, DieWithParent: true,
		})
		if err != nil {
			return "", err
		}
		b.cluster = c
	}
	b.made++
	name := fmt.Sprintf("bench_%d", b.made)
	return b.cluster.DSN(name), b.cluster.EnsureDatabase(ctx, name)
}

// store makes a migrated database, a pool as the daemon has it, and a
// connection of the owner of the tables. The caller closes both.
func (b *bench) store(ctx context.Context) (pool *pgxpool.Pool, owner *pgx.Conn, err error) {
	dsn, err := b.database(ctx)
	if err != nil {
		return nil, nil, err
	}
	if owner, err = pgx.Connect(ctx, dsn); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, owner.Close(ctx))
		}
	}()
	if err = migrations.Migrate(ctx, owner); err != nil {
		return nil, nil, err
	}
	pool, err = openPool(ctx, dsn)
	return pool, owner, err
}

// openPool opens a pool as the daemon has it.
func openPool(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.AfterConnect = migrations.SetRole
	return pgxpool.NewWithConfig(ctx, config)
}

// round says which round it is.
func (b *bench) round(i int) { fmt.Fprintf(b.progress, "  round %d of %d\n", i+1, b.rounds) }
