package eventlog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// DefaultPoll is how often a follower looks for new events by itself.
const DefaultPoll = 2 * time.Second

// closeGrace is how long Close lets a commit that is under way finish.
const closeGrace = 5 * time.Second

// Log is the append-only event log in Postgres. It may be used by any number of
// goroutines, and any number of Logs, in any number of processes, may share one
// database.
type Log struct {
	pool *pgxpool.Pool
	log  *slog.Logger
	poll time.Duration
	// lone is OneConnection.
	lone bool
	// silence is attemptTimeout, but in tests of a network that loses what is sent.
	silence time.Duration

	open   context.Context    // ended by Close: begin nothing new
	stop   context.CancelFunc // ends open
	ctx    context.Context    // ends closeGrace after open: abandon what is under way
	cancel context.CancelFunc // ends ctx
	once   sync.Once
	owned  sync.WaitGroup // every goroutine of the Log

	inbox inbox
	// appends is the outage that the appender sits out, follows that of all followers.
	appends, follows *retry.Outage
	known            head          // the appender's alone
	notify           chan struct{} // capacity 1: a NOTIFY is due
	// recent are the events of this process's last commit: what a follower that has
	// come so far need not read.
	recent atomic.Pointer[[]Event]

	mu        sync.Mutex
	closed    bool // guards owned against Add after Wait
	listening bool
	followers map[chan struct{}]struct{}
}

// Option changes how a Log works.
type Option func(*Log)

// WithPoll sets how often a follower looks for new events without having been
// woken; DefaultPoll otherwise.
func WithPoll(interval time.Duration) Option {
	return func(l *Log) { l.poll = interval }
}

// OneConnection is for a process that only follows: its followers hear of new events
// on the connection that they read with, and where the server has few to spare, they
// hold none between two looks.
func OneConnection() Option {
	return func(l *Log) { l.lone = true }
}

// Open makes a Log on the pool, which the caller keeps and closes after the
// Log. It does not connect, so it works while the database is down.
func Open(pool *pgxpool.Pool, log *slog.Logger, options ...Option) *Log {
	ctx, cancel := context.WithCancel(context.Background())
	open, stop := context.WithCancel(ctx)
	l := &Log{
		pool: pool, log: log, poll: DefaultPoll, silence: attemptTimeout,
		open: open, stop: stop, ctx: ctx, cancel: cancel,
		appends:   retry.New(log, slog.LevelWarn, "append waits for the database"),
		follows:   retry.New(log, slog.LevelWarn, "follower waits for the database"),
		inbox:     inbox{wake: make(chan struct{}, 1)},
		notify:    make(chan struct{}, 1),
		followers: make(map[chan struct{}]struct{}),
	}
	for _, option := range options {
		option(l)
	}
	l.owned.Go(l.runAppender)
	l.owned.Go(l.runNotifier)
	return l
}

// Close stops the Log and waits for its goroutines. A commit that is under way
// gets a few seconds to finish; groups that still wait fail with ErrClosed, and
// so do later calls. Followers return ErrClosed.
func (l *Log) Close() {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.stop()
		grace := time.AfterFunc(closeGrace, l.cancel)
		l.owned.Wait()
		grace.Stop()
		l.cancel()
	})
}

func (l *Log) isStopping() bool { return l.open.Err() != nil }

// whileOpen is ctx until the Log is closed.
func (l *Log) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(l.open, cancel)
	return ctx, func() { forget(); cancel() }
}

// Waiting returns why nothing can be appended for now, and since when; nil where
// the last attempt succeeded.
func (l *Log) Waiting() (since time.Time, err error) { return l.appends.Now() }
