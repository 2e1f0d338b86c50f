//go:build integration

package redis_test

import (
	"os"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/redistest"
)

// limit is for what is expected to happen soon; only a failure takes that long.
const limit = 30 * time.Second

// startServer starts a server of the test's own.
func startServer(t *testing.T) *redistest.Server {
	t.Helper()
	s, err := redistest.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// anyURL is the given server's URL, or that of one started for the test.
func anyURL(t *testing.T) string {
	t.Helper()
	if url := os.Getenv(redistest.URLEnv); url != "" {
		return url
	}
	return startServer(t).URL()
}
