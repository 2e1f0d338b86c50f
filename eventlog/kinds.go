package eventlog

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// kind is what the log knows of one type of event.
type kind struct {
	typ Type
	// data is the Go type of the current version.
	data reflect.Type
	// ofRun says that a fence counts events of the type. The index events_runs
	// and its lookup name the same ones.
	ofRun bool
	// upcasts lead from version 1 to 2, from 2 to 3, and so on.
	upcasts []upcast
}

// upcast makes data of one schema version of a type those of the next one. It
// works on raw JSON, because the Go type of an older version is gone. What it
// yields must be what today's code would append for the same fact: a transition
// that was appended by an older binary and is appended again by this one is the
// same transition, and anything else would be a conflict.
//
// An upcast is never changed once a release has stored the version that it
// makes, and never removed: events are not rewritten.
type upcast func(data json.RawMessage) (json.RawMessage, error)

// vocabulary is the kinds of a log, in the order of a delivery's life.
type vocabulary []kind

// kinds is the one table of this log's events. To add a type: its Go type, a row
// here, a golden file, and what the fold makes of it. To change the shape of one: change
// its Go type, add the upcast from the version before, and a golden file of the
// new version; the old golden file stays.
var kinds = vocabulary{
	{typ: TypeReceived, data: reflect.TypeFor[Received]()},
	{typ: TypeRedelivered, data: reflect.TypeFor[Redelivered]()},
	{typ: TypeForwarded, data: reflect.TypeFor[Forwarded]()},
	{typ: TypeVoided, data: reflect.TypeFor[Voided]()},
	{typ: TypeStarted, data: reflect.TypeFor[Started](), ofRun: true},
	{typ: TypeDeployed, data: reflect.TypeFor[Deployed](), ofRun: true},
	{typ: TypeFailed, data: reflect.TypeFor[Failed](), ofRun: true},
	{typ: TypeInterrupted, data: reflect.TypeFor[Interrupted](), ofRun: true},
	{typ: TypeReplayed, data: reflect.TypeFor[Replayed]()},
	{typ: TypeRedacted, data: reflect.TypeFor[Redacted]()},
	{typ: TypePinned, data: reflect.TypeFor[Pinned]()},
	{typ: TypeUnpinned, data: reflect.TypeFor[Unpinned]()},
	{typ: TypeFrozen, data: reflect.TypeFor[Frozen]()},
	{typ: TypeThawed, data: reflect.TypeFor[Thawed]()},
	{typ: TypeCanceled, data: reflect.TypeFor[Canceled]()},
}

// EventType implements Data.
func (Received) EventType() Type { return TypeReceived }

// EventType implements Data.
func (Redelivered) EventType() Type { return TypeRedelivered }

// EventType implements Data.
func (Forwarded) EventType() Type { return TypeForwarded }

// EventType implements Data.
func (Voided) EventType() Type { return TypeVoided }

// EventType implements Data.
func (Started) EventType() Type { return TypeStarted }

// EventType implements Data.
func (Deployed) EventType() Type { return TypeDeployed }

// EventType implements Data.
func (Failed) EventType() Type { return TypeFailed }

// EventType implements Data.
func (Interrupted) EventType() Type { return TypeInterrupted }

// EventType implements Data.
func (Replayed) EventType() Type { return TypeReplayed }

// EventType implements Data.
func (Redacted) EventType() Type { return TypeRedacted }

// EventType implements Data.
func (Pinned) EventType() Type { return TypePinned }

// EventType implements Data.
func (Unpinned) EventType() Type { return TypeUnpinned }

// EventType implements Data.
func (Frozen) EventType() Type { return TypeFrozen }

// EventType implements Data.
func (Thawed) EventType() Type { return TypeThawed }

// EventType implements Data.
func (Canceled) EventType() Type { return TypeCanceled }

// Types lists the types of events that this binary knows, in the order of a
// delivery's life.
func Types() []Type {
	types := make([]Type, len(kinds))
	for i, k := range kinds {
		types[i] = k.typ
	}
	return types
}

// TypeNames is Types for people.
func TypeNames() string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k.typ)
	}
	return strings.Join(names, ", ")
}

// RunTypes lists the types of the events of a run, which are those that a Fence of a
// deployment counts.
func RunTypes() []Type {
	var types []Type
	for _, k := range kinds {
		if k.ofRun {
			types = append(types, k.typ)
		}
	}
	return types
}

// Known says whether this binary knows the type.
func Known(t Type) bool { return kinds.find(t) != nil }

func (v vocabulary) find(t Type) *kind {
	for i := range v {
		if v[i].typ == t {
			return &v[i]
		}
	}
	return nil
}

// version is the schema version in which this binary writes events of the kind.
func (k *kind) version() int { return 1 + len(k.upcasts) }

// encode returns the JSON of data with the schema version as its first key.
func (v vocabulary) encode(data Data) ([]byte, error) {
	var k *kind
	if reflect.TypeOf(data) != nil && reflect.TypeOf(data).Kind() != reflect.Pointer {
		k = v.find(data.EventType())
	}
	if k == nil || k.data != reflect.TypeOf(data) {
		return nil, fmt.Errorf("%T is not an event of this log", data)
	}
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", k.typ, err)
	}
	out := fmt.Appendf(make([]byte, 0, len(b)+8), `{"v":%d`, k.version())
	if len(b) > len("{}") {
		out = append(out, ',')
	}
	return append(out, b[1:]...), nil
}

// Encode returns the data of an event as the log stores them.
func Encode(data Data) (json.RawMessage, error) { return kinds.encode(data) }

// Decode returns the event's data as its Go type (a value, not a pointer); data
// of an older schema version are led up to the current one first. An unknown type
// or schema version is an *UnknownEventError: no reader may skip what it does
// not understand.
func (e Event) Decode() (Data, error) { return kinds.decode(e) }

func (v vocabulary) decode(e Event) (Data, error) {
	raw, err := v.lift(e)
	if err != nil {
		return nil, err
	}
	data := reflect.New(v.find(e.Type).data)
	if err := json.Unmarshal(raw, data.Interface()); err != nil {
		return nil, fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	return data.Elem().Interface().(Data), nil
}

// Current returns the event's data in the current version of its type, and fails as
// Decode does.
func (e Event) Current() (json.RawMessage, error) { return kinds.lift(e) }

// lift returns data as they are stored where they have the current version, and
// else leads them from version to version.
func (v vocabulary) lift(e Event) (json.RawMessage, error) {
	k := v.find(e.Type)
	if k == nil {
		return nil, &UnknownEventError{Position: e.Position, Type: e.Type}
	}
	var stored struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(e.Data, &stored); err != nil {
		return nil, fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	if stored.V < 1 || stored.V > k.version() {
		return nil, &UnknownEventError{Position: e.Position, Type: e.Type, Version: stored.V}
	}
	data := e.Data
	for i, step := range k.upcasts[stored.V-1:] {
		var err error
		if data, err = step(data); err != nil {
			from := stored.V + i
			return nil, fmt.Errorf("decode %s at position %d: from version %d to %d: %w", e.Type, e.Position, from, from+1, err)
		}
	}
	return data, nil
}

// same says whether the stored event has the content of what is to be appended,
// whichever version of the binary stored it.
func (v vocabulary) same(stored Event, data []byte) bool {
	if sameJSON(stored.Data, data) {
		return true
	}
	if k := v.find(stored.Type); k == nil || len(k.upcasts) == 0 {
		return false
	}
	lifted, err := v.lift(stored)
	return err == nil && sameJSON(lifted, data)
}
