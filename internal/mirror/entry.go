// Package mirror turns what the log orders into files: it follows the log, keeps
// the orders that have not ended, and makes the queue of each deployment equal to
// them, one file an order. The queues can be deleted: they follow from the log.
package mirror

import (
	"encoding/json"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// entryVersion is the schema version of an Entry.
const entryVersion = 1

// Entry is the content of a file in a deployment's queue: one run that the log
// orders.
type Entry struct {
	V int `json:"v"`
	// Position and EventID are those of the event that orders the run. The event's
	// ID names the file, so that writing it again makes no second one.
	Position   int64  `json:"position"`
	EventID    string `json:"event_id"`
	DeliveryID string `json:"delivery_id"`
	// Cause is the type of that event.
	Cause eventlog.Type `json:"cause"`
	Actor string        `json:"actor"`
	eventlog.Assignment
}

// Name is the entry's file name in its queue.
func (e Entry) Name() string { return e.EventID + "_" + e.DeliveryID + ".json" }

// file is the entry's file, as its queue knows it. e.check has passed.
func (e Entry) file() queue.Entry {
	return queue.Entry{Name: e.Name(), ID: ulid.MustParseStrict(e.EventID), DeliveryID: e.DeliveryID}
}

// Encode returns the entry's file content; the same bytes for the same entry.
func (e Entry) Encode() ([]byte, error) {
	e.V = entryVersion
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode queue entry %s: %w", e.Name(), err)
	}
	return append(b, '\n'), nil
}

// Decode reads an entry's file content. An error means that the entry can never
// be read and belongs in quarantine.
func Decode(b []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return Entry{}, fmt.Errorf("decode queue entry: %w", err)
	}
	if e.V != entryVersion {
		return Entry{}, fmt.Errorf("decode queue entry: version %d is not known to this binary (it knows %d)", e.V, entryVersion)
	}
	return e, e.check()
}

func (e Entry) check() error {
	switch {
	case !names.DeliveryID(e.DeliveryID):
		return fmt.Errorf("queue entry: %q is not a delivery ID", e.DeliveryID)
	case !names.Slug(e.Deployment):
		return fmt.Errorf("queue entry: %q is not the name of a deployment", e.Deployment)
	case e.Position < 1 || e.Attempt < 1:
		return fmt.Errorf("queue entry: position %d and attempt %d must be 1 or more", e.Position, e.Attempt)
	}
	if _, err := ulid.ParseStrict(e.EventID); err != nil {
		return fmt.Errorf("queue entry: %q is not an event ID: %w", e.EventID, err)
	}
	return nil
}

// entriesOf lists the entries that an event makes; nil for one that orders no run.
func entriesOf(e eventlog.Event) ([]Entry, error) {
	assignments, err := e.Assignments()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, a := range assignments {
		entries = append(entries, Entry{
			V: entryVersion, Position: e.Position, EventID: e.ID, DeliveryID: e.DeliveryID,
			Cause: e.Type, Actor: e.Actor, Assignment: a,
		})
	}
	return entries, nil
}
