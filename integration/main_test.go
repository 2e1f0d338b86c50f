// Package integration tests the whole product from the outside: the real
// program, built once and run as a process on port 0, with a real Postgres,
// real git repositories, and a stand-in for GitHub that signs and posts.
package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// limit is for what is expected to happen soon; only a failure takes that long.
const limit = 3 * time.Minute

// program is the path of the built program. A test binary has no other place to
// hand a value from TestMain to its tests.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "durhack-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "durhack-deployer")
	args := []string{"build", "-o", program}
	if raced {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/durhack-deployer")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
		return 1
	}
	// Tests run it as other users, too, whatever the umask.
	if err := errors.Join(os.Chmod(dir, 0o711), os.Chmod(program, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return pgtest.MainNoLeaks(m)
}
