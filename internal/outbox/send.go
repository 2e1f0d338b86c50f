package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// lastPause bounds the pauses between the tries of an item.
	lastPause = 5 * time.Minute
	// maxError bounds what is kept of an error, bytes.
	maxError = 2000
	// chances is how often something that was refused is tried again once others of
	// its scope are taken: a token may have got its permission back.
	chances = 5
	// probes bounds the pauses between the tries of what is refused: that many times Probe.
	probes = 12
)

type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// IsRefused says that an error is marked so.
func IsRefused(err error) bool { return errors.As(err, new(refused)) }

// Refused marks an error of Send as one that waiting does not fix, but a person may: the
// newest of a scope is tried again now and then.
func Refused(err error) error { return refused{err} }

// ErrTurn is for Send to return where something else has to be sent before: no failure.
var ErrTurn = errors.New("it waits for its turn")

type after struct {
	error
	pause time.Duration
}

func (a after) Unwrap() error { return a.error }

// After marks an error of Send as one to be tried again after the pause at the earliest.
func After(pause time.Duration, err error) error { return after{err, pause} }

// owed is an item with what became of it so far.
type owed struct {
	Item
	tries   int
	err     string
	refused bool
}

// deliver sends what is owed until ctx ends; it always returns an error. An item
// that hangs holds up its own key alone.
func (b *Outbox) deliver(ctx context.Context) error {
	var sends sync.WaitGroup
	defer sends.Wait()
	flying := []string{}
	landed := make(chan string, b.o.Parallel)
	for {
		due, pause, err := b.due(ctx, flying)
		if err != nil {
			return fmt.Errorf("read what is owed: %w", err)
		}
		for _, item := range due {
			flying = append(flying, item.Key)
			sends.Go(func() {
				b.send(ctx, item)
				landed <- item.Key
			})
		}
		timer := time.NewTimer(pause)
		select {
		case key := <-landed:
			flying = without(flying, key)
		case <-b.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

func without(list []string, key string) []string {
	var rest = []string{}
	for _, k := range list {
		if k != key {
			rest = append(rest, k)
		}
	}
	return rest
}

// due reads what is to be sent now, as much as may be sent at once, and how long it is
// until there is more. What is refused stays so while the newest of its scope is tried.
func (b *Outbox) due(ctx context.Context, flying []string) (list []owed, pause time.Duration, err error) {
	free := b.o.Parallel - len(flying)
	pause = time.Minute
	if free == 0 {
		return nil, pause, nil
	}
	const q = `with probes as (select distinct on (scope) * from public.outbox
			where channel = $1 and instance = $2 and state = 'refused' and at > clock_timestamp() - $5::interval
			order by scope, position desc, key)
		select key, scope, position, at, body, tries, error, state = 'refused', greatest(0, extract(epoch from next_at - clock_timestamp()))::float8
		from (select * from public.outbox where channel = $1 and instance = $2 and state = 'owed' union all select * from probes) o
		where key <> all ($3) order by next_at, position limit $4`
	rows, err := b.o.Pool.Query(ctx, q, b.o.Channel, b.o.Instance, flying, free, Lasts)
	if err != nil {
		return nil, 0, err
	}
	var item owed
	var wait float64
	_, err = pgx.ForEachRow(rows, []any{&item.Key, &item.Scope, &item.Position, &item.At, &item.Body, &item.tries, &item.err, &item.refused, &wait}, func() error {
		if wait > 0 {
			pause = min(pause, time.Duration(wait*float64(time.Second))+time.Millisecond)
			return nil
		}
		one := item
		one.Body = append([]byte(nil), item.Body...)
		list = append(list, one)
		return nil
	})
	return list, pause, err
}

// send sends an item and notes what became of it. Where that cannot be noted, it is
// sent again.
func (b *Outbox) send(ctx context.Context, item owed) {
	var err error
	if time.Since(item.At) > Lasts {
		err = errors.New(orElse(item.err, "it was not tried for a day"))
	} else {
		sending, cancel := context.WithTimeout(ctx, b.o.Timeout)
		err = b.o.Send(sending, item.Item)
		cancel()
		if err != nil && ctx.Err() != nil {
			return
		}
	}
	// Also where ctx has ended: else it would be said twice without need.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease/3)
	defer cancel()
	b.outage.Until(noting, func() error {
		if err == nil {
			return b.done(noting, item)
		}
		return b.failed(noting, item, err)
	})
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// done removes what was sent, if nothing newer has taken its place. Its scope takes
// again what it is sent, so what waits for that is sent at once, and what it refused gets
// another chance.
func (b *Outbox) done(ctx context.Context, item owed) error {
	b.told.over(item.Scope)
	return pgx.BeginFunc(ctx, b.o.Pool, func(tx pgx.Tx) error {
		const remove = `delete from public.outbox where channel = $1 and instance = $2 and key = $3 and position = $4`
		if _, err := tx.Exec(ctx, remove, b.o.Channel, b.o.Instance, item.Key, item.Position); err != nil {
			return err
		}
		const revive = `update public.outbox set state = 'owed', next_at = clock_timestamp()
			where channel = $1 and instance = $2 and scope = $3
				and (state = 'refused' and tries < $4 or state = 'owed' and tries > 0 and next_at > clock_timestamp())`
		_, err := tx.Exec(ctx, revive, b.o.Channel, b.o.Instance, item.Scope, chances)
		return err
	})
}

// told is the last refusal of each scope that was logged, until something of the scope
// was taken.
type told struct {
	mu   sync.Mutex
	last map[string]string
}

// again says whether that was the last one, and makes it so.
func (t *told) again(scope, text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last[scope] == text {
		return true
	}
	if t.last == nil {
		t.last = map[string]string{}
	}
	t.last[scope] = text
	return false
}

func (t *told) over(scope string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, scope)
}

// failed notes a failure. The first of a kind that is final is logged.
func (b *Outbox) failed(ctx context.Context, item owed, err error) error {
	state, failed, pause := "owed", true, retry.Pause(item.tries, b.o.Pause, lastPause)
	if a, ok := errors.AsType[after](err); ok {
		pause = max(a.pause, pause)
	}
	probe := min(max(time.Since(item.At), b.o.Probe), probes*b.o.Probe) // each about twice the one before
	switch {
	case IsRefused(err):
		state, pause = "refused", probe
	case item.refused: // whether it still is was not answered
		state, failed, pause = "refused", false, max(pause, probe)
	case errors.Is(err, ErrTurn):
		failed = false
	case time.Since(item.At)+pause > Lasts:
		state = "given_up"
	}
	text := words.Cut(strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "\uFFFD"), maxError, "")
	if !failed {
		text = item.err
	}
	const note = `update public.outbox set state = $5, error = $6, next_at = clock_timestamp() + $7,
			failed_at = case when $8 then clock_timestamp() else failed_at end,
			tries = tries + case state when 'owed' then 1 else 0 end
		where channel = $1 and instance = $2 and key = $3 and position = $4`
	if _, err := b.o.Pool.Exec(ctx, note, b.o.Channel, b.o.Instance, item.Key, item.Position, state, text, pause, failed); err != nil {
		return err
	}
	log := b.log.With("scope", item.Scope, "key", item.Key, "position", item.Position, "error", text)
	switch {
	case state == "owed":
		log.Debug("it is sent again later", "in", pause.Round(time.Millisecond).String())
	case state == "refused" && item.err == text, b.told.again(item.Scope, text):
	case state == "refused":
		log.Warn("the outside refused what it was told, for good")
	default:
		log.Warn("the outside could not be told for a day, which is given up")
	}
	return nil
}
