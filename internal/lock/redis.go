package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

const (
	keyPrefix = "durhack-deployer:lock:"
	// minTTL leaves time for three refreshes that take a while each.
	minTTL = 500 * time.Millisecond
	// redisPoll is how often a waiter asks for a lock that somebody else holds.
	redisPoll = 200 * time.Millisecond
	// redisAnswer is how long one answer may take, connecting included.
	redisAnswer = 3 * time.Second
)

// Redis locks with keys of a Redis or Dragonfly server that expire unless they are
// refreshed.
type Redis struct {
	client *redis.Client
	locks  *redislock.Client
	scope  string
	ttl    time.Duration
	log    *slog.Logger
	// who is written behind the token, so that the holder of a lock can be named.
	who string
}

// tokenLength is that of rand.Text.
const tokenLength = 26

// NewRedis returns locks on the server of a redis://, rediss:// or unix:// URL.
// It does not connect. Locks of the same name exclude each other within a scope
// (the instance): two deployers may share a server. A holder that dies is out of the way after ttl. The caller
// closes it, after the locks have been released.
func NewRedis(rawURL, scope string, ttl time.Duration, log *slog.Logger) (*Redis, error) {
	if ttl < minTTL {
		return nil, fmt.Errorf("the time to live of a lock must be at least %v, not %v", minTTL, ttl)
	}
	o, err := redis.ParseURL(rawURL)
	if err != nil {
		// The client's own words may repeat a piece of the password.
		return nil, errors.New("the URL of the lock server cannot be read; it is written redis://[user:password@]host[:port][/db] " +
			"(or rediss://, or unix:///path), with the special characters of a password percent-encoded")
	}
	// Acquire and the refresher have retries of their own, which know the context
	// and the time that is left; the client's would only delay them.
	o.MaxRetries = -1
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = redisAnswer, redisAnswer, redisAnswer
	// What Dragonfly and older servers do not know is not asked of them.
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(o)
	return &Redis{client: client, locks: redislock.New(client), scope: scope, ttl: ttl, log: log, who: whoAmI()}, nil
}

// ClientLog sends what go-redis itself has to say to log, as debug lines: it would
// print a line to standard error for each attempt while a server is away, of which
// Acquire already tells. It is process-wide, so the program calls it, once, at its start.
func ClientLog(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log *slog.Logger }

// Printf implements the Logging interface of go-redis.
func (l clientLog) Printf(ctx context.Context, format string, args ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "redis client", "message", fmt.Sprintf(format, args...))
	}
}

// Ping says whether the server answers, and lets this client in.
func (l *Redis) Ping(ctx context.Context) error {
	if err := l.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ask the lock server: %w", err)
	}
	return nil
}

// Close closes the connections.
func (l *Redis) Close() error {
	if err := l.client.Close(); err != nil {
		return fmt.Errorf("close the lock server's connections: %w", err)
	}
	return nil
}

// Acquire waits until this caller alone holds name, or until ctx ends; a server
// that is away is waited for. held is derived from ctx and ends with cause ErrLost
// when the key was lost or could not be refreshed for its time to live. The lock
// is held, and refreshed, until release, also after ctx has ended; release may be
// called more than once.
func (l *Redis) Acquire(ctx context.Context, name string) (held context.Context, release func() error, err error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	// One token for all attempts: when an answer is lost on the way, the next
	// attempt finds the key to be its own instead of waiting for it to expire.
	token := rand.Text()
	outage := retry.New(l.log.With("lock", name), slog.LevelWarn, "the lock server does not answer; the deploy waits for it")
	for {
		asked := time.Now()
		lock, err := l.obtain(ctx, name, token)
		switch {
		case err == nil:
			outage.Over()
			held, release := l.hold(ctx, name, lock, asked.Add(l.ttl))
			return held, release, nil
		case ctx.Err() != nil:
			l.forget(ctx, name, token)
			return nil, nil, fmt.Errorf("wait for the lock of %s: %w", name, context.Cause(ctx))
		case errors.Is(err, redislock.ErrNotObtained):
			outage.Over()
			retry.Sleep(ctx, redisPoll)
		default:
			retry.Sleep(ctx, outage.Failed(err))
		}
	}
}

func (l *Redis) key(name string) string { return keyPrefix + l.scope + ":" + name }

func (l *Redis) obtain(ctx context.Context, name, token string) (*redislock.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, min(redisAnswer, l.ttl))
	defer cancel()
	return l.locks.Obtain(ctx, l.key(name), l.ttl, &redislock.Options{Token: token, Metadata: l.who})
}

// forget takes back what a request that was given up may have obtained, so that
// the next holder need not wait for it to expire. It is a courtesy.
func (l *Redis) forget(ctx context.Context, name, token string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.client.Eval(ctx, `if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) else return 0 end`,
		[]string{l.key(name)}, token+l.who).Err()
}

// hold refreshes the lock until it is released or lost. until is when the server
// forgets it at the earliest, by this process's monotonic clock.
func (l *Redis) hold(ctx context.Context, name string, lock *redislock.Lock, until time.Time) (context.Context, func() error) {
	held, cancel := context.WithCancelCause(ctx)
	// The refresher serves the holder to its release, whatever becomes of ctx: a
	// step that is being ended still works on the deployment's files.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var lost error
	var refreshing sync.WaitGroup
	refreshing.Go(func() {
		if lost = l.refresh(running, lock, until); lost != nil {
			cancel(lost)
		}
	})
	return held, sync.OnceValue(func() error {
		stop()
		refreshing.Wait()
		cancel(context.Canceled)
		if lost != nil {
			return fmt.Errorf("release the lock of %s: %w", name, lost)
		}
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), redisAnswer)
		defer done()
		switch err := lock.Release(ctx); {
		case errors.Is(err, redislock.ErrLockNotHeld):
			return fmt.Errorf("release the lock of %s: %w", name, ErrLost)
		case err != nil:
			return fmt.Errorf("release the lock of %s (it expires within %v): %w", name, l.ttl, err)
		}
		return nil
	})
}

// refresh returns nil when running ends and an ErrLost when the lock is lost.
func (l *Redis) refresh(running context.Context, lock *redislock.Lock, until time.Time) error {
	wait := l.ttl / 3
	for {
		if !retry.Sleep(running, min(wait, time.Until(until))) {
			return nil
		}
		asked := time.Now()
		// An answer that comes after the key has expired is of no use.
		ctx, cancel := context.WithDeadline(running, until)
		err := lock.Refresh(ctx, l.ttl, nil)
		cancel()
		switch {
		case running.Err() != nil:
			return nil
		case err == nil:
			until, wait = asked.Add(l.ttl), l.ttl/3
		case errors.Is(err, redislock.ErrNotObtained):
			return fmt.Errorf("%w: the key expired or was taken", ErrLost)
		case !time.Now().Before(until):
			return fmt.Errorf("%w: it could not be refreshed for %v: %w", ErrLost, l.ttl, err)
		default:
			wait = l.ttl / 10
		}
	}
}
