package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// Errors of the log, to be matched with errors.Is.
var (
	// ErrFenced refuses a group whose Fence does not hold: the run was ended, another
	// has started, or the delivery has another event.
	ErrFenced = errors.New("fenced: its events have gone on since")
	// ErrNoPayload says that no body is stored under a digest.
	ErrNoPayload = errors.New("no payload is stored under this digest")
	// ErrRedacted refuses a group that would store a body of a delivery whose
	// bodies were redacted.
	ErrRedacted = errors.New("the delivery's bodies were redacted: none of it is stored any more")
	// ErrOtherBodies refuses a redaction that does not name exactly the bodies
	// that the delivery's events name: one has come in since they were read.
	ErrOtherBodies = errors.New("the delivery has other bodies than those to be redacted")
	// ErrClosed says that the Log was closed.
	ErrClosed = errors.New("event log is closed")
)

// ConflictError refuses a group one of whose transitions is recorded already
// with another content or actor. Nothing of the group was stored.
type ConflictError struct {
	// Stored is the event that holds the identity. Its position is 0 where the
	// conflict is within the group itself.
	Stored Event
	// Actor and Data are what was to be appended.
	Actor string
	Data  []byte
}

func (e *ConflictError) Error() string {
	where := "in the same group"
	if e.Stored.Position != 0 {
		where = fmt.Sprintf("at position %d", e.Stored.Position)
	}
	of := ""
	if e.Stored.Deployment != nil {
		of = fmt.Sprintf(" of deployment %s", *e.Stored.Deployment)
	}
	return fmt.Sprintf("conflict: %s (attempt %d)%s of delivery %s is recorded already %s with other content",
		e.Stored.Type, e.Stored.Attempt, of, e.Stored.DeliveryID, where)
}

// HoleError says that the log does not hold the position that must come next.
// It means that rows were removed, or that the reader's checkpoint is from
// another log (as after restoring an old backup); waiting does not fix it.
type HoleError struct {
	// Want is the position that is missing.
	Want int64
	// Got is the position found in its place, 0 where the rows end before it.
	Got int64
	// Head is the position at which the log says that it ends.
	Head int64
}

func (e *HoleError) Error() string {
	if e.Got != 0 {
		return fmt.Sprintf("hole in the event log: expected position %d, found %d (the log ends at %d)", e.Want, e.Got, e.Head)
	}
	if e.Want > e.Head {
		return fmt.Sprintf("checkpoint %d is past the end of the event log at %d: it is from another log, or the log was restored from an older backup", e.Want-1, e.Head)
	}
	return fmt.Sprintf("hole in the event log: position %d is missing, and the log ends at %d", e.Want, e.Head)
}

// Refused says that the database will not have what a group holds, so that
// appending the same group again cannot succeed. Other errors of Append may
// pass: a table that is being restored, a right that was forgotten.
func Refused(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (strings.HasPrefix(pg.Code, "22") || // data exception
		strings.HasPrefix(pg.Code, "23") || // integrity constraint violation
		strings.HasPrefix(pg.Code, "54")) // program limit exceeded
}

// Full says that the server has no connection left.
func Full(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "53300"
}

// Transient says whether trying again may help. Trying again is always safe,
// because transitions have identities; so whatever is not known to be permanent
// counts as transient: lost connections, timeouts, a server that starts or stops.
func Transient(err error) bool {
	if errors.Is(err, puddle.ErrClosedPool) || errors.Is(err, context.Canceled) {
		return false
	}
	if _, ok := errors.AsType[*TreeError](err); ok {
		return false
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return true
	}
	switch {
	case pg.Code == "57P04": // database_dropped
		return false
	case pg.Code == "0A000", // feature_not_supported: a transaction that writes, on a standby that may be promoted
		pg.Code == "25006",                // read_only_sql_transaction
		pg.Code == "25P03",                // idle_in_transaction_session_timeout: this process stood still
		strings.HasPrefix(pg.Code, "08"),  // connection exception
		strings.HasPrefix(pg.Code, "40"),  // transaction rollback: serialization failure, deadlock
		strings.HasPrefix(pg.Code, "53"),  // insufficient resources: disk full, too many connections
		strings.HasPrefix(pg.Code, "55P"), // lock not available
		strings.HasPrefix(pg.Code, "57"),  // operator intervention: shutdown, cannot connect now, canceled
		strings.HasPrefix(pg.Code, "58"):  // system error
		return true
	}
	return false
}
