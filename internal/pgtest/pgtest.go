// Package pgtest gives tests a real Postgres: one private server a test binary,
// started when the first test asks and gone when the binary ends, and a fresh
// database for each test.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// DURHACK_TEST_DATABASE_URL names a server to use instead; its user must be
// allowed to make databases and roles.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

const (
	urlEnv = "DURHACK_TEST_DATABASE_URL"
	// waitTime bounds everything here that waits for a server.
	waitTime = 2 * time.Minute
)

// shared is the server of this test binary. A test binary has no place to
// hand a value from TestMain to its tests, hence the one variable.
var shared server

type server struct {
	mu       sync.Mutex
	dsn      func(database string) string // nil until started
	admin    *pgx.Conn
	cluster  *localpg.Cluster // nil when somebody else's server is used
	dir      string
	template string // the migrated database, "" until made
}

// Main runs the tests and then stops the shared server. See testkit.Main.
func Main(m interface{ Run() int }) int { return testkit.Main(m, shared.close) }

// MainNoLeaks is Main, and fails if goroutines are left when all has ended.
func MainNoLeaks(m interface{ Run() int }) int { return testkit.MainNoLeaks(m, shared.close) }

// DSN returns the connection string of a fresh, empty database, which is
// dropped, with what is still connected to it, when the test ends.
func DSN(t testing.TB) string {
	t.Helper()
	return fresh(t, shared.createEmpty)
}

// fresh makes a database for the length of a test.
func fresh(t testing.TB, create func(context.Context) (string, error)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	name, err := create(ctx)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitTime)
		defer cancel()
		if err := shared.drop(ctx, name); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return shared.dsn(name)
}

func (s *server) createEmpty(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(ctx); err != nil {
		return "", err
	}
	return s.createLocked(ctx, "template0")
}

// createLocked makes a database as a copy of the template and returns its name.
func (s *server) createLocked(ctx context.Context, template string) (string, error) {
	name := "durhack_test_" + strings.ToLower(rand.Text())
	sql := "CREATE DATABASE " + name + " TEMPLATE " + template
	if s.cluster != nil {
		sql += " STRATEGY FILE_COPY" // takes half as long where no checkpoint waits for a disk
	}
	_, err := s.admin.Exec(ctx, sql)
	if err != nil {
		return "", fmt.Errorf("make a database: %w", err)
	}
	return name, nil
}

func (s *server) drop(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropLocked(ctx, name)
}

func (s *server) dropLocked(ctx context.Context, name string) error {
	if _, err := s.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop a database: %w", err)
	}
	return nil
}

// start makes the server ready, once. s.mu is held.
func (s *server) start(ctx context.Context) error {
	if s.admin != nil && !s.admin.IsClosed() {
		return nil
	}
	if s.dsn == nil {
		if external := os.Getenv(urlEnv); external != "" {
			s.dsn = func(database string) string { return withDatabase(external, database) }
		} else {
			c, dir, err := newCluster(ctx)
			if err != nil {
				return err
			}
			s.cluster, s.dir, s.dsn = c, dir, c.DSN
		}
	}
	dsn := s.dsn("postgres")
	if s.cluster == nil {
		dsn = os.Getenv(urlEnv) // the database that its user is known to have
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	s.admin = conn
	return nil
}

func (s *server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dsn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	var errs []error
	if s.admin != nil {
		if s.template != "" && s.cluster == nil {
			errs = append(errs, s.dropLocked(ctx, s.template))
		}
		errs = append(errs, s.admin.Close(ctx))
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Close(ctx), os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// withDatabase replaces the database of a connection string.
func withDatabase(dsn, database string) string {
	if u, err := url.Parse(dsn); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		u.Path = "/" + database
		return u.String()
	}
	return dsn + " dbname=" + database // the last one counts
}
