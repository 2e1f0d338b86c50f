package webhook

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// maxPuts bounds how many deliveries are being written at a time, so that a disk
// that hangs takes neither all memory nor all connections.
const maxPuts = 128

var errPutLate = errors.New("the disk has not stored the delivery in time; it may still do so")

// put stores a delivery, and takes its memory. A system call on a disk that hangs
// cannot be ended, so it is made by a goroutine that is not waited for when it is
// late: the sender is told to come again, and one that is still stored is a
// delivery like any other.
func (h *Handler) put(ctx context.Context, d delivery.Delivery, m *held) (queue.Entry, error) {
	late := time.NewTimer(h.putTimeout)
	defer late.Stop()
	select {
	case h.puts <- struct{}{}:
	default:
		if h.late.Load() > 0 { // it hangs: waiting would only take the connections
			return queue.Entry{}, errPutLate
		}
		select {
		case h.puts <- struct{}{}:
		case <-late.C:
			return queue.Entry{}, errPutLate
		}
	}
	type result struct {
		entry queue.Entry
		err   error
	}
	stored, gone := make(chan result), make(chan struct{})
	mine := *m
	m.given = true
	go func() {
		defer func() { <-h.puts }()
		entry, err := h.queue.Put(ctx, d.ID, func(w io.Writer) error { return d.EncodeChunksTo(w, mine.chunks) })
		mine.release()
		select {
		case stored <- result{entry, err}:
		case <-gone:
			h.late.Add(-1)
			h.log.Warn("the disk was late: a delivery was stored, or failed to be, after its sender had been refused", "delivery", d.ID, "entry", entry.Name, "error", err)
		}
	}()
	select {
	case r := <-stored:
		return r.entry, r.err
	case <-late.C:
		h.late.Add(1)
		close(gone)
		return queue.Entry{}, errPutLate
	}
}

// Settle waits until nothing is being stored any more. It says false where ctx
// ended before: a write may then still be going on.
func (h *Handler) Settle(ctx context.Context) bool {
	for range maxPuts {
		select {
		case h.puts <- struct{}{}: // and nobody gets in any more
		case <-ctx.Done():
			return false
		}
	}
	return true
}
