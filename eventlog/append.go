package eventlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

const (
	// maxBatchRows and maxBatchBytes bound what one commit holds; a group that
	// is larger than either goes alone.
	maxBatchRows  = 512
	maxBatchBytes = 32 << 20
	// attemptTimeout ends an attempt to append or to read whose server has gone silent.
	attemptTimeout = time.Minute
)

// Group is a set of transitions that is appended as a whole or not at all. A
// Redacted among them deletes the bodies that it names in the same transaction,
// and is refused with ErrOtherBodies unless these are all of the delivery's.
type Group struct {
	Transitions []Transition
	// Payload is stored in the same transaction, unless it is stored already or
	// all transitions are. It must not change until the append has returned,
	// and where that returned ctx's error, not until the Log is closed. It is of
	// the delivery of the first transition; where that was redacted, the group is
	// refused with ErrRedacted.
	Payload *Payload
	// Fence refuses the group with ErrFenced unless it holds. It is not asked
	// about a group whose transitions are all recorded already.
	Fence *Fence
}

// Fence holds while the newest event of the deployment's runs (`started`,
// `deployed`, `failed` or `interrupted`) is at Position, where 0 means that
// there is none. With the position of its own `started`, a run can be ended by
// the first to come and by nobody after; with that of the last end, only one
// of those who saw it can start, and no attempt that was voided meanwhile.
//
// With a DeliveryID, and no Deployment, it holds while the newest event of that
// delivery, of whatever type, is at Position: what was decided on the delivery's
// events is recorded only where no other event has come since.
type Fence struct {
	Instance, Deployment, DeliveryID string
	Position                         int64
}

// fenceKey is what a fence is about.
type fenceKey struct{ instance, deployment, deliveryID string }

func (f Fence) key() fenceKey {
	return fenceKey{clean(f.Instance), clean(f.Deployment), clean(f.DeliveryID)}
}

// Payload is the raw body of a delivery.
type Payload struct {
	// Digest is hex SHA-256 of Salt followed by Body.
	Digest      string
	Salt, Body  []byte
	ContentType string
}

// Result is what became of one group: its events in the order of its
// transitions, or an error.
type Result struct {
	Events []Event
	Err    error
}

// Append records a group and returns its events once they are committed. A
// transition that is recorded already, with the same actor and content, is not
// recorded again: its event is returned as it stands.
//
// While the database is away, Append waits and tries again until ctx ends. When
// ctx ends first its error is returned, and the group may or may not have been
// recorded; appending it again settles that. Errors that are the group's own
// come at once: *ConflictError, ErrFenced, or what the database refused.
func (l *Log) Append(ctx context.Context, g Group) ([]Event, error) {
	results, err := l.AppendAll(ctx, []Group{g})
	if err != nil {
		return nil, err
	}
	return results[0].Events, results[0].Err
}

// AppendAll records groups, each as Append would, in their order and as far as
// possible with one commit. The error is ctx's or ErrClosed, and means that
// some groups have no result yet: those carry it too.
func (l *Log) AppendAll(ctx context.Context, groups []Group) ([]Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	results := make([]Result, len(groups))
	requests := make([]*request, 0, len(groups))
	at := make([]int, 0, len(groups))
	for i, g := range groups {
		r, err := newRequest(ctx, g)
		if err != nil {
			results[i].Err = err
			continue
		}
		requests, at = append(requests, r), append(at, i)
	}
	if !l.inbox.put(requests) {
		return nil, ErrClosed
	}
	var err error
	for i, r := range requests {
		select {
		case <-r.done:
		default:
			select {
			case <-r.done:
			case <-ctx.Done():
				results[at[i]].Err, err = ctx.Err(), ctx.Err()
				continue
			}
		}
		results[at[i]] = r.result
		if errors.Is(r.result.Err, ErrClosed) {
			err = ErrClosed
		}
	}
	return results, err
}

// request is a group on its way through the appender.
type request struct {
	ctx     context.Context
	rows    []row
	payload *Payload
	fence   *Fence
	bytes   int
	result  Result        // set before done is closed, by the appender alone
	done    chan struct{} // closed once
}

func newRequest(ctx context.Context, g Group) (*request, error) {
	if len(g.Transitions) == 0 {
		return nil, errors.New("append: group has no transitions")
	}
	r := &request{ctx: ctx, rows: make([]row, len(g.Transitions)), payload: g.Payload, fence: g.Fence, done: make(chan struct{})}
	for i, t := range g.Transitions {
		encoded, err := encodeTransition(t)
		if err != nil {
			return nil, fmt.Errorf("append: %w", err)
		}
		r.rows[i] = encoded
		r.bytes += len(encoded.data)
	}
	if g.Payload != nil {
		if err := r.checkPayload(); err != nil {
			return nil, fmt.Errorf("append: %w", err)
		}
		r.bytes += len(g.Payload.Body)
	}
	return r, nil
}

// checkPayload refuses a payload that is not what its digest, or an event of the
// group that names it, says.
func (r *request) checkPayload() error {
	stored := *r.payload
	stored.ContentType = cleanLikeJSON(stored.ContentType)
	for _, row := range r.rows {
		if n := namedIn(row.data); row.typ != TypeRedacted && n.Digest == stored.Digest {
			return n.Check(&stored)
		}
	}
	return stored.check()
}

func (r *request) finish(result Result) {
	r.result = result
	close(r.done)
}

// inbox is what callers have handed in, in order.
type inbox struct {
	mu       sync.Mutex
	requests []*request
	closed   bool
	wake     chan struct{} // capacity 1: something waits
}

func (in *inbox) put(requests []*request) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	if len(requests) > 0 {
		in.requests = append(in.requests, requests...)
		in.signal()
	}
	return true
}

func (in *inbox) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// fill lets callers that the last commit has just released hand in what they
// have next, so that it shares this commit: it gives way for as long as more
// comes. Alone, a caller waits for one turn of the scheduler, which is nothing;
// with 64 it makes batches half as large again.
func (in *inbox) fill() {
	for before, turns := 0, 0; turns < maxBatchRows; turns++ {
		runtime.Gosched()
		in.mu.Lock()
		now := len(in.requests)
		in.mu.Unlock()
		if now <= before {
			return
		}
		before = now
	}
}

// take returns the requests of the next batch, without those whose callers
// have left.
func (in *inbox) take() []*request {
	in.mu.Lock()
	defer in.mu.Unlock()
	var batch []*request
	rows, size, n := 0, 0, 0
	for _, r := range in.requests {
		if r.ctx.Err() == nil {
			if len(batch) > 0 && (rows+len(r.rows) > maxBatchRows || size+r.bytes > maxBatchBytes) {
				break
			}
			batch = append(batch, r)
			rows, size = rows+len(r.rows), size+r.bytes
		}
		n++
	}
	if n == len(in.requests) {
		in.requests = nil
	} else {
		in.requests = in.requests[n:]
		in.signal()
	}
	return batch
}

func (in *inbox) close() []*request {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	rest := in.requests
	in.requests = nil
	return rest
}

// runAppender is the one path by which this process appends: it takes what has
// gathered while the last batch was being committed, and commits it together.
func (l *Log) runAppender() {
	for !l.isStopping() {
		select {
		case <-l.open.Done():
		case <-l.inbox.wake:
			l.inbox.fill()
			l.commit(l.inbox.take())
		}
	}
	for _, r := range l.inbox.close() {
		r.finish(Result{Err: ErrClosed})
	}
}

// commit sees a batch through: until it is recorded, or refused, or nobody
// waits for it any more.
func (l *Log) commit(batch []*request) {
	for len(batch) > 0 {
		results, err := l.attempt(batch)
		switch {
		case err == nil:
			l.appends.Over()
			for i, r := range batch {
				r.finish(results[i])
			}
			return
		case l.ctx.Err() != nil, l.isStopping() && Transient(err):
			for _, r := range batch {
				r.finish(Result{Err: ErrClosed})
			}
			return
		case Transient(err):
			retry.Sleep(l.open, l.appends.Failed(err))
			batch = stillWaiting(batch)
		case len(batch) == 1:
			batch[0].finish(Result{Err: fmt.Errorf("append: %w", err)})
			return
		default:
			// The database refused the batch for the sake of one group: each by itself.
			for _, r := range batch {
				l.commit([]*request{r})
			}
			return
		}
	}
}

func stillWaiting(batch []*request) []*request {
	rest := batch[:0]
	for _, r := range batch {
		if r.ctx.Err() == nil {
			rest = append(rest, r)
		}
	}
	return rest
}
