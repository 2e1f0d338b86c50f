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

// errAnswered says that the sender was refused meanwhile.
var errAnswered = errors.New("answered already")

// put stores a delivery. A system call on a disk that hangs cannot be ended, so when
// it is late, refuse is called beside it: the sender is told to come again, and one
// that is still stored is a delivery like any other. (Another goroutine that writes, and
// is not waited for, costs every acknowledgement two more wake-ups.)
func (h *Handler) put(ctx context.Context, d delivery.Delivery, chunks [][]byte, refuse func(error)) (queue.Entry, error) {
	end := time.Now().Add(h.putTimeout)
	select {
	case h.puts <- struct{}{}:
	default:
		if h.late.Load() > 0 { // it hangs: waiting would only take the connections
			return queue.Entry{}, errPutLate
		}
		late := time.NewTimer(h.putTimeout)
		defer late.Stop()
		select {
		case h.puts <- struct{}{}:
		case <-late.C:
			return queue.Entry{}, errPutLate
		}
	}
	defer func() { <-h.puts }()
	refused := make(chan struct{})
	late := time.AfterFunc(time.Until(end), func() {
		defer close(refused)
		h.late.Add(1)
		refuse(errPutLate)
	})
	entry, err := h.queue.Put(ctx, d.ID, func(w io.Writer) error { return d.EncodeChunksTo(w, chunks) })
	if late.Stop() {
		return entry, err
	}
	<-refused
	h.late.Add(-1)
	h.log.Warn("the disk was late: a delivery was stored, or failed to be, after its sender had been refused", "delivery", d.ID, "entry", entry.Name, "error", err)
	return entry, errAnswered
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
