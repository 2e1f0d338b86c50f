package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// database is the name of the database in a private cluster.
const database = "durhack_deployer"

// Store is an open event log with what lies below it: the pool and, without a
// database_url, the private cluster. Close it.
type Store struct {
	Pool *pgxpool.Pool
	Log  *eventlog.Log
	// cluster is nil with a database_url.
	cluster *localpg.Cluster
	dsn     string
}

// OpenStore connects a command to the configured database, or to the private
// cluster, which it starts when it is not running. It brings the schema up to date
// when migrate is set or the cluster is private, and else refuses one that is not.
func OpenStore(ctx context.Context, cfg *config.Config, log *slog.Logger, migrate bool) (*Store, error) {
	return openStore(ctx, cfg, log, migrate, func(*pgxpool.Config) {}, eventlog.OneConnection())
}

// openWorkersStore is OpenStore for the daemon, whose connections are all made at
// once and kept: the server may be full of others later.
func openWorkersStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (*Store, error) {
	return openStore(ctx, cfg, log, true, func(pool *pgxpool.Config) { pool.MinConns = pool.MaxConns })
}

func openStore(ctx context.Context, cfg *config.Config, log *slog.Logger, migrate bool, set func(*pgxpool.Config), options ...eventlog.Option) (_ *Store, err error) {
	s := &Store{dsn: cfg.DatabaseURL}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.dsn == "" {
		if err := MakeStateDir(cfg); err != nil {
			return nil, err
		}
		s.cluster, err = localpg.Open(ctx, localpg.Config{
			Dir: PrivateCluster(cfg), Log: log, Durable: true,
		})
		if err != nil {
			return nil, fmt.Errorf("open the private Postgres of %s: %w", cfg.StateDir, err)
		}
		s.dsn = s.cluster.DSN(database)
	}
	poolConfig, err := pgxpool.ParseConfig(s.dsn)
	if err != nil {
		return nil, fmt.Errorf("read database_url: %w", err)
	}
	poolConfig.AfterConnect = migrations.SetRole
	// A daemon must notice a server that vanished without a word.
	poolConfig.ConnConfig.ConnectTimeout = 10 * time.Second
	if poolConfig.ConnConfig.RuntimeParams["application_name"] == "" {
		poolConfig.ConnConfig.RuntimeParams["application_name"] = "durhack-deployer"
	}
	set(poolConfig)
	if migrate {
		if err := s.migrate(ctx); err != nil {
			return nil, err
		}
	}
	s.Pool, err = pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open the connection pool: %w", err)
	}
	if !migrate {
		// With the connection that is used then: a command needs no other.
		err := s.Pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return migrations.Check(ctx, c.Conn()) })
		if s.cluster != nil && unmade(err) {
			if err = s.migrate(ctx); err == nil {
				s.Pool.Reset() // who connected before did so without its role
			}
		}
		if err != nil {
			return nil, fmt.Errorf("connect to Postgres: %w", err)
		}
	}
	s.Log = eventlog.Open(s.Pool, log, options...)
	return s, nil
}

// unmade says that the database is not there, or of an older version.
func unmade(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "3D000" || errors.As(err, new(*migrations.TooOldError)) // invalid_catalog_name
}

// migrate makes the database of a private cluster where it is missing, and brings
// the schema up to date.
func (s *Store) migrate(ctx context.Context) error {
	if s.cluster != nil {
		if err := s.cluster.EnsureDatabase(ctx, database); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return migrations.Migrate(ctx, conn)
}

// AsOwner calls f with its own connection that works as the owner of the
// schema, which programs otherwise do only to migrate.
func (s *Store) AsOwner(ctx context.Context, f func(conn *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := migrations.SetOwner(ctx, conn); err != nil {
		return err
	}
	return f(conn)
}

// workersLock is the advisory lock of a database that its workers share, and that
// a process that fills it takes alone: arbitrary, but never to be changed.
const workersLock = int64(0x6475726861636b03)

// ErrWorkerRuns says that a worker runs on the database, of this host or another.
var ErrWorkerRuns = errors.New("a worker is running on this database")

// Alone is AsOwner while no worker runs on the database. One that starts meanwhile waits.
func (s *Store) Alone(ctx context.Context, f func(conn *pgx.Conn) error) error {
	return s.AsOwner(ctx, func(conn *pgx.Conn) error {
		// The lock ends with the connection, and those of others a moment after theirs.
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "set local lock_timeout = '2s'")
			if err == nil {
				_, err = tx.Exec(ctx, "select pg_advisory_lock($1)", workersLock)
			}
			return err
		})
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "55P03" { // lock_not_available
			return ErrWorkerRuns
		}
		if err != nil {
			return fmt.Errorf("look for workers of this database: %w", err)
		}
		return f(conn)
	})
}

// attendEvery is how soon a worker notices that its session with the lock has ended.
const attendEvery = 5 * time.Second

// attend lets others know that a worker runs on the database, until ctx ends. It
// calls begun once that is so.
func (s *Store) attend(ctx context.Context, begun func()) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var ours bool
	if err := conn.QueryRow(ctx, "select pg_try_advisory_lock_shared($1)", workersLock).Scan(&ours); err != nil {
		return fmt.Errorf("take the lock of workers: %w", err)
	}
	if !ours {
		return errors.New("a log is being imported into this database")
	}
	begun()
	for retry.Sleep(ctx, attendEvery) {
		if err := conn.Ping(ctx); err != nil {
			return fmt.Errorf("keep the lock of workers: %w", err)
		}
	}
	return ctx.Err()
}

// obstacles are what keeps the log from being appended to, though it can be read.
func (s *Store) obstacles(ctx context.Context) ([]string, error) {
	conn, err := s.Pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	return migrations.Obstacles(ctx, conn.Conn())
}

// Supervise keeps a private cluster running until ctx ends; with a
// database_url there is nothing to do.
func (s *Store) Supervise(ctx context.Context) error {
	if s.cluster == nil {
		<-ctx.Done()
		return nil
	}
	return s.cluster.Supervise(ctx)
}

// Close lets go of the log, the pool and the cluster, in that order. The last
// user of a private cluster stops it.
func (s *Store) Close() {
	if s.Log != nil {
		s.Log.Close()
	}
	if s.Pool != nil {
		s.Pool.Close()
	}
	if s.cluster != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = s.cluster.Close(ctx) // a cluster that stays up is adopted by the next user
	}
}

// DescribeSchema says which version the schema has, and who guards the log.
func (s *Store) DescribeSchema(ctx context.Context, w io.Writer) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	version, err := migrations.Version()
	if err != nil {
		return err
	}
	roles, err := migrations.Roles(ctx, conn)
	if err != nil {
		return err
	}
	guard := "the application role may read and append, no more"
	if !roles {
		guard = "the connecting role owns the log, because it may not create roles: only triggers guard it (docs/operations.md)"
	}
	_, err = fmt.Fprintf(w, "the schema is at version %d; %s\n", version, guard)
	return err
}
