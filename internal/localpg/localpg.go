// Package localpg owns a private Postgres cluster: one directory, one cluster,
// reached only through a unix socket by the OS user that it runs as and by
// root. A process that needs it opens it: the first makes and starts it, later ones
// join, the last one to close it stops it. A cluster that outlived a killed
// user is adopted.
//
// The directory holds:
//
//	data/         the Postgres data directory
//	run/          the socket (elsewhere when the path is too long for one)
//	postgres.log  what the server prints, bounded
//	start.lock    flock: held while the cluster is made, started or stopped
//	users.lock    flock: shared by every user of the running cluster
//
// Linux only: it relies on flock(2), peer authentication and /proc.
package localpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// User is the database user that owns everything in the cluster.
const User = "durhack_deployer"

const (
	// The cluster has no TCP port; this number only names its socket.
	port       = "5432"
	socketName = ".s.PGSQL." + port

	// A start includes crash recovery, which is seconds at the sizes of this
	// log; a minute tells a slow start from one that will never end.
	startTimeout   = time.Minute
	connectTimeout = 5 * time.Second
	pollInterval   = 20 * time.Millisecond
)

// Config says where the cluster is and how it is run.
type Config struct {
	// Dir is the cluster's directory, usually {state_dir}/postgres. It is made
	// if missing, and owned by the OS user that the cluster runs as: the caller,
	// or, when that is root, whom Postgres refuses, the owner of Dir or of its
	// parent, or else postgres, or else a user that is added for it.
	Dir string
	// Log may be nil.
	Log *slog.Logger
	// Durable must be true except in tests: without it a power loss, though not
	// a killed process, may destroy the cluster.
	Durable bool
	// DieWithParent stops the server when this process ends, however it ends. It
	// is for tests: a daemon's cluster is to outlive it and be adopted.
	DieWithParent bool
	// BinDir overrides where initdb and postgres are looked for.
	BinDir string
	// Fetch says where the programs come from when the machine has none.
	Fetch FetchConfig

	// searchDirs replaces the usual places of the programs, in tests.
	searchDirs []string
}

// Cluster is one user's hold on a running private cluster. Its methods may be
// called from several goroutines.
type Cluster struct {
	cfg   Config
	log   *slog.Logger
	owner owner
	dir   string // absolute
	sock  string // the directory of the socket

	startLock *os.File
	usersLock *os.File
	// ending is closed by Close; see startMortal.
	ending chan struct{}

	mortal sync.WaitGroup

	// mu guards what follows and, with the start lock, which only excludes other
	// holders of other files, all making, starting and stopping.
	mu     sync.Mutex
	closed bool
	// launched is the process of a server that this Cluster started and that has
	// not been seen to answer yet, or 0; logFrom is where its output begins in the log.
	launched int
	logFrom  int64
	// children are the servers that this Cluster started and has not reaped.
	// Only these may be waited for: a stale process ID may by now be that of a
	// child that belongs to other code of this program.
	children map[int]bool
}

var errClosed = errors.New("the cluster is closed")

// Open makes the cluster if there is none, starts it if it does not run, and
// joins its users. The caller owns the Cluster and must Close it.
func Open(ctx context.Context, cfg Config) (*Cluster, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the directory of the private Postgres: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{cfg: cfg, log: cfg.Log, dir: dir, children: make(map[int]bool), ending: make(chan struct{})}
	if err := c.open(ctx); err != nil {
		return nil, fmt.Errorf("open the private Postgres in %s: %w", dir, err)
	}
	return c, nil
}

func (c *Cluster) open(ctx context.Context) error {
	err := c.prepare(ctx)
	if err != nil {
		return err
	}
	if c.startLock, err = c.openOwned("start.lock", os.O_RDWR); err != nil {
		return err
	}
	if c.usersLock, err = c.openOwned("users.lock", os.O_RDWR); err != nil {
		return errors.Join(err, c.startLock.Close())
	}
	if err := c.join(ctx); err != nil {
		// What a failed start has left running must not outlive it; ctx may be
		// what failed it.
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		return errors.Join(err, c.Close(stopCtx))
	}
	return nil
}

// prepare makes the directories. No lock is held: it has its file in one of them.
func (c *Cluster) prepare(ctx context.Context) error {
	var err error
	if c.owner, err = chooseOwner(ctx, c.dir); err != nil {
		return err
	}
	if err := c.makeDir(); err != nil {
		return err
	}
	c.sock, err = c.socketDir()
	return err
}

// join counts this Cluster among the users before it starts anything, so that
// no last user stops the server in between.
func (c *Cluster) join(ctx context.Context) error {
	unlock, err := c.lockStart(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := flock.Lock(ctx, c.usersLock, flock.Shared); err != nil {
		return fmt.Errorf("join the users of the cluster: %w", err)
	}
	return c.ensure(ctx)
}

// Start makes sure that the cluster answers, starting it if it does not run.
func (c *Cluster) Start(ctx context.Context) error { return c.alone(ctx, c.ensure) }

// Stop stops the server, also while others use it, and waits for its end: sessions are
// cut, what was committed is kept. The next Start brings it back.
func (c *Cluster) Stop(ctx context.Context) error { return c.alone(ctx, c.stop) }

// alone calls f with the start lock, unless the cluster is closed.
func (c *Cluster) alone(ctx context.Context, f func(context.Context) error) error {
	unlock, err := c.lockStart(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if c.closed {
		return errClosed
	}
	return f(ctx)
}

// Close ends this use of the cluster, and stops the server if it was the last
// one. ctx bounds the wait for the server's end; it should not be one that
// the program's shutdown has already cancelled. Close is idempotent.
func (c *Cluster) Close(ctx context.Context) error {
	unlock, lockErr := c.lockStart(ctx)
	if lockErr != nil {
		// Without the lock nothing may be stopped, but the use still ends.
		c.mu.Lock()
		unlock = c.mu.Unlock
	}
	defer unlock()
	if c.closed {
		return nil
	}
	c.closed = true

	var stopErr error
	if lockErr == nil {
		last, err := flock.Try(c.usersLock, flock.Exclusive)
		switch {
		case last:
			if stopErr = c.stop(ctx); stopErr == nil {
				stopErr = c.removeSocketDir()
			}
		case err != nil:
			stopErr = fmt.Errorf("look for other users of the cluster: %w", err)
		}
	}
	close(c.ending)
	c.mortal.Wait()
	// The start lock goes last: it covers the whole of the stop. unlock above
	// then finds it closed, and released, already.
	if err := errors.Join(lockErr, stopErr, flock.Release(c.usersLock), flock.Release(c.startLock)); err != nil {
		return fmt.Errorf("close the private Postgres in %s: %w", c.dir, err)
	}
	return nil
}

// abandonTime is how long a server that is told to end at once may take.
const abandonTime = 2 * time.Second

// Abandon ends the server of a directory that is given up, without waiting for its
// users, and by force where it does not end at once.
func Abandon(dir string) {
	c := &Cluster{dir: dir}
	pm, _ := c.readPIDFile() // where it cannot be read, there is none to be seen
	// SIGQUIT is Postgres's "immediate": its children go with it. They also end by
	// themselves once it is gone.
	for _, sig := range []syscall.Signal{unix.SIGQUIT, unix.SIGKILL} {
		if c.isPostmaster(pm.pid) {
			_ = signalProcess(pm.pid, sig) // one that is gone meanwhile is what is wanted
		}
		for until := time.Now().Add(abandonTime); c.isPostmaster(pm.pid) && time.Now().Before(until); {
			time.Sleep(pollInterval)
		}
	}
}

// DSN returns the connection string of a database of the cluster, for pgx. It
// holds no secret, and stays the same over restarts.
func (c *Cluster) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable",
		quoteDSN(c.sock), port, User, quoteDSN(database))
}

// LogPath returns the file that the server prints to.
func (c *Cluster) LogPath() string { return filepath.Join(c.dir, "postgres.log") }

// PID returns the process ID of the running server's first process, or 0.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pm, err := c.readPIDFile()
	if err != nil || !c.isPostmaster(pm.pid) {
		return 0
	}
	return pm.pid
}

// EnsureDatabase makes the database if there is none of that name. Two that do
// so at once both succeed.
func (c *Cluster) EnsureDatabase(ctx context.Context, name string) error {
	if err := c.ensureDatabase(ctx, name); err != nil {
		return fmt.Errorf("make sure that the database %q exists: %w", name, err)
	}
	return nil
}

func (c *Cluster) ensureDatabase(ctx context.Context, name string) error {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists)
	if err != nil || exists {
		return err
	}
	// template0 never has sessions, so a copy of it is never refused.
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0")
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42P04" || pgErr.Code == "23505") {
		return nil // duplicate_database, or unique_violation on pg_database: someone was faster
	}
	return err
}

func (c *Cluster) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(c.DSN("postgres"))
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = connectTimeout
	return pgx.ConnectConfig(ctx, cfg)
}

// lockStart takes the mutex and the start lock, and returns what gives both back.
func (c *Cluster) lockStart(ctx context.Context) (unlock func(), err error) {
	c.mu.Lock()
	if c.closed {
		// Close may be repeated; everything else looks at c.closed itself.
		return c.mu.Unlock, nil
	}
	if err := flock.Lock(ctx, c.startLock, flock.Exclusive); err != nil {
		c.mu.Unlock()
		return nil, fmt.Errorf("wait for another process to start or stop the cluster: %w", err)
	}
	return func() {
		if !c.closed {
			_ = flock.Unlock(c.startLock) // what is held can be unlocked
		}
		c.mu.Unlock()
	}, nil
}

func quoteDSN(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
