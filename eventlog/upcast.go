package eventlog

import (
	"encoding/json"
	"fmt"
)

// upcast makes data of one schema version of a type those of the next one. It
// works on raw JSON, because the Go type of an older version is gone. What it
// yields must be what today's code would append for the same fact: a transition
// that was appended by an older binary and is appended again by this one is the
// same transition, and anything else would be a conflict.
//
// An upcast is never changed once a release has stored the version that it
// makes, and never removed: events are not rewritten.
type upcast func(data json.RawMessage) (json.RawMessage, error)

// history lists the upcasts of each type: the first one leads from version 1 to
// version 2. A type that is not in it has had one version only.
type history func(t Type) []upcast

// upcasts is the history of the events of this log. To change the shape of an
// event: change its Go type, add the upcast from the version before here, and a
// golden file of the new version; the old golden file stays.
func upcasts(Type) []upcast { return nil }

// CurrentVersion is the schema version in which this binary writes events of
// the type.
func CurrentVersion(t Type) int { return history(upcasts).current(t) }

func (h history) current(t Type) int { return 1 + len(h(t)) }

// lift returns the event's data in the current version of its type: as they are
// stored where they have it, and else led from version to version. A version that is
// not of this history is an *UnknownEventError.
func (h history) lift(e Event) (json.RawMessage, error) {
	var version struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(e.Data, &version); err != nil {
		return nil, fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	steps := h(e.Type)
	if version.V < 1 || version.V > 1+len(steps) {
		return nil, &UnknownEventError{Position: e.Position, Type: e.Type, Version: version.V}
	}
	data := e.Data
	for i, step := range steps[version.V-1:] {
		var err error
		if data, err = step(data); err != nil {
			from := version.V + i
			return nil, fmt.Errorf("decode %s at position %d: from version %d to %d: %w", e.Type, e.Position, from, from+1, err)
		}
	}
	return data, nil
}

// same says whether the stored event has the content of what is to be appended,
// whichever version of the binary stored it.
func (h history) same(stored Event, data []byte) bool {
	if sameJSON(stored.Data, data) {
		return true
	}
	if len(h(stored.Type)) == 0 {
		return false
	}
	lifted, err := h.lift(stored)
	return err == nil && sameJSON(lifted, data)
}
