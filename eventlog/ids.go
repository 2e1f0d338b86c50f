package eventlog

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/oklog/ulid/v2"
)

// nextID is the ID of the event after the one with ID last, recorded at now. IDs
// follow the last ID of the log, which is read under the head lock, so they are
// monotonic with the position across processes and whatever the clocks do.
func nextID(last ulid.ULID, now time.Time) ulid.ULID {
	var random [10]byte
	_, _ = rand.Read(random[:]) // crypto/rand.Read never fails (Go 1.24)
	if ms := now.UnixMilli(); ms > 0 && uint64(ms) > last.Time() && uint64(ms) <= ulid.MaxTime() {
		// The top bit stays clear to leave room for counting up within the millisecond.
		random[0] &= 0x7f
		var id ulid.ULID
		_ = id.SetTime(uint64(ms)) // in range: checked above
		copy(id[6:], random[:])
		return id
	}
	// Same millisecond, or a clock that stepped back: count up from the last ID
	// by a random amount; a carry out of the random part moves the time on.
	step := uint64(binary.BigEndian.Uint32(random[:])) + 1
	low, carry := bits.Add64(binary.BigEndian.Uint64(last[8:]), step, 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(last[:8]), 0, carry)
	var id ulid.ULID
	binary.BigEndian.PutUint64(id[:8], high)
	binary.BigEndian.PutUint64(id[8:], low)
	return id
}
