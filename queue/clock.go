package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// clock gives out ULIDs that rise, also when the wall clock steps back. Those of
// two processes are never the same, and in order as far as the wall clock is.
type clock struct {
	now func() time.Time

	mu   sync.Mutex
	last ulid.ULID
}

func (c *clock) next() (ulid.ULID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := after(c.last, c.now())
	if err == nil {
		c.last = id
	}
	return id, err
}

// after is a ULID of that time, or where last is not before that time, one soon
// after last.
func after(last ulid.ULID, now time.Time) (ulid.ULID, error) {
	if ms := now.UnixMilli(); ms > 0 && uint64(ms) > last.Time() && uint64(ms) <= ulid.MaxTime() {
		var id ulid.ULID
		if err := id.SetTime(uint64(ms)); err != nil {
			return ulid.ULID{}, fmt.Errorf("make a ULID: %w", err)
		}
		// Uniqueness needs no secrecy, so any entropy will do.
		hi, lo := rand.Uint64(), rand.Uint64()
		for i := range 8 {
			id[6+i] = byte(hi >> (8 * i))
		}
		id[14], id[15] = byte(lo), byte(lo>>8)
		if id != lastULID {
			return id, nil
		}
	}
	// Another process may go on from the same last one, so the step is random.
	id, carry := last, 1+rand.Uint64N(1<<32)
	for i := len(id) - 1; i >= 0; i-- {
		carry += uint64(id[i]) // out of the entropy it goes into the time, and the order holds
		id[i], carry = byte(carry), carry>>8
	}
	if carry > 0 || id == lastULID {
		return ulid.ULID{}, errors.New("make a ULID: there is none after the last one")
	}
	return id, nil
}
