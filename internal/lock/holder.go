package lock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"
)

// Holder names the process that holds name; "" where nobody does.
func (l *Flock) Holder(_ context.Context, name string) (string, error) {
	if held, err := l.Held(name); err != nil || !held {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Lstat(l.Path(name), &st); err != nil {
		return "", fmt.Errorf("look at the lock of %s: %w", name, err)
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return "another process", nil
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// "1: FLOCK  ADVISORY  WRITE 1234 fd:01:131 0 EOF"; who waits has "->" before its kind.
		if f := strings.Fields(lines.Text()); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return processName(f[4]), nil
		}
	}
	return "another process", nil // of another container, say
}

func processName(pid string) string {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
}

// whoAmI is what a holder writes of itself behind its token.
func whoAmI() string {
	host, err := os.Hostname()
	if err != nil {
		host = "a host without a name"
	}
	return fmt.Sprintf("process %d on %s", os.Getpid(), host)
}

// Holder names the process that holds name; "" where nobody does. It is an error
// where the server does not answer.
func (l *Redis) Holder(ctx context.Context, name string) (string, error) {
	value, err := l.client.Get(ctx, l.key(name)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("the lock server does not answer: %w", err)
	}
	if len(value) <= tokenLength {
		return "a process that does not say its name", nil
	}
	return value[tokenLength:], nil
}
