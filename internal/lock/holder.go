package lock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
)

// Holder names the process that holds name; "" where nobody does.
func (l *Flock) Holder(ctx context.Context, name string) (string, error) {
	const looks = 5 // a holder may let go before it is looked for, again and again
	for look := range looks {
		if look > 0 && !flock.Pause(ctx) {
			return "", context.Cause(ctx)
		}
		if held, err := l.Held(name); err != nil || !held {
			return "", err
		}
		who, err := flock.Holder(l.Path(name))
		if err != nil {
			return "", fmt.Errorf("look at the lock of %s: %w", name, err)
		}
		if who != "" {
			return who, nil
		}
	}
	return "another process", nil // of another container, say
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
