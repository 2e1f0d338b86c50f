package eventlog

import (
	"math/rand/v2"
	"time"
)

// backoff is the wait between attempts during an outage: from 10 ms, doubling,
// to about a second, so that work resumes soon after the database is back.
type backoff struct{ failures int }

func (b *backoff) next() time.Duration {
	const first, last = 10 * time.Millisecond, time.Second
	d := min(first<<min(b.failures, 16), last)
	b.failures++
	return d/2 + rand.N(d/2+1)
}
