// Package archive owns the portable form of a log: JSON lines that hold every
// event with its exact bytes, the stored bodies, and at the end what proves that
// nothing is missing or changed. docs/log-format.md describes it.
package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// Format and Version name the form in its first line.
const (
	Format  = "durhack-deployer-log"
	Version = 1
)

// maxLine bounds a line in bytes: the largest body, in base64, with room to spare.
const maxLine = 64 << 20

// Summary is what an archive holds.
type Summary struct {
	Events, Bodies int64
	// LeftOut is the position up to which the archive brings no bodies; 0 where all
	// that are stored are in it.
	LeftOut   int64
	Instances []string
	// Root is the RFC 6962 tree hash over the events' leaves.
	Root [32]byte
	// Checkpoint is the signed checkpoint that the archive carries, or "", and Signed
	// the number of events that it covers.
	Checkpoint string
	Signed     int64
	// First and Last are when the first and the last event were recorded; zero
	// where there is none.
	First, Last time.Time
}

// NotEmptyError refuses to import into a log that has something in it.
type NotEmptyError struct{ Head, Bodies int64 }

func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("the log is not empty: it ends at position %d and has %d bodies; an archive is imported only into an empty one", e.Head, e.Bodies)
}

// DamagedError says that a file is not an archive as Export wrote it.
type DamagedError struct {
	// Line is the number of the line, from 1.
	Line int64
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("line %d of the archive: %v", e.Line, e.Err)
}
func (e *DamagedError) Unwrap() error { return e.Err }

// BodyError refuses to export bodies that are not those of the events.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "the bodies are not those of the events: " + e.Err.Error() }
func (e *BodyError) Unwrap() error { return e.Err }

// The lines of an archive begin with one of these keys, which tells them apart:
// header, events, bodies, trailer.
const (
	headerKey  = `{"format":`
	eventKey   = `{"position":`
	bodyKey    = `{"digest":`
	trailerKey = `{"end":`
)

type header struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	Instances []string  `json:"instances"`
	Created   time.Time `json:"created"`
	// Bodies says whether the stored bodies are in the archive.
	Bodies bool `json:"bodies"`
	// BodiesAfter is the position up to which there are still none, because
	// the log was itself imported without them.
	BodiesAfter int64 `json:"bodies_after,omitempty"`
	// Checkpoint is the signed checkpoint that was kept last.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// eventLine is an event with the keys of `log --json`.
type eventLine struct {
	Position   int64           `json:"position"`
	ID         string          `json:"id"`
	Instance   string          `json:"instance"`
	DeliveryID string          `json:"delivery_id"`
	Type       eventlog.Type   `json:"type"`
	Deployment *string         `json:"deployment"`
	Attempt    int             `json:"attempt"`
	Actor      string          `json:"actor"`
	RecordedAt time.Time       `json:"recorded_at"`
	Data       json.RawMessage `json:"data"`
	// DataRaw is the data where its bytes cannot stand in a line as they are:
	// those with line breaks, say.
	DataRaw *string `json:"data_raw,omitempty"`
}

type bodyLine struct {
	Digest      string `json:"digest"`
	ContentType string `json:"content_type"`
	Salt        []byte `json:"salt"`
	Body        []byte `json:"body"`
}

func (b *bodyLine) payload() *eventlog.Payload {
	return &eventlog.Payload{Digest: b.Digest, Salt: b.Salt, Body: b.Body, ContentType: b.ContentType}
}

type trailer struct {
	End      bool   `json:"end"`
	Events   int64  `json:"events"`
	Bodies   int64  `json:"bodies"`
	TreeSize int64  `json:"tree_size"`
	Root     []byte `json:"root"`
	// SHA256 is that of every byte before the trailer's line, in hex.
	SHA256 string `json:"sha256"`
}

// appendEvent appends an event's line without the line break.
func appendEvent(b []byte, e *eventlog.Event) ([]byte, error) {
	line := eventLine{
		Position: e.Position, ID: e.ID, Instance: e.Instance, DeliveryID: e.DeliveryID, Type: e.Type,
		Deployment: e.Deployment, Attempt: e.Attempt, Actor: e.Actor, RecordedAt: e.RecordedAt,
	}
	data := []byte(e.Data)
	if !plain(data) {
		raw := string(data)
		line.DataRaw = &raw
		var compact bytes.Buffer
		if err := json.Compact(&compact, data); err != nil {
			return nil, fmt.Errorf("data of the event at position %d: %w", e.Position, err)
		}
		data = compact.Bytes()
	}
	head, err := marshal(line)
	if err != nil {
		return nil, fmt.Errorf("encode the event at position %d: %w", e.Position, err)
	}
	// encoding/json would compact and escape the data: it goes in as it is.
	before, after, ok := bytes.Cut(head, []byte(`,"data":null`))
	if !ok {
		return nil, fmt.Errorf("encode the event at position %d: no place for its data", e.Position)
	}
	b = append(b, before...)
	b = append(b, `,"data":`...)
	b = append(b, data...)
	return append(b, after...), nil
}

// plain says whether data can stand in a line as it is, and be read from it so.
func plain(data []byte) bool {
	return len(data) > 0 && !bytes.ContainsAny(data, "\r\n") && len(bytes.TrimSpace(data)) == len(data) && json.Valid(data)
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// unmarshal reads one line.
func unmarshal(line []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

var errSpelling = errors.New("it is not written as an export writes it")

// spelled refuses a line that is not, byte for byte, what an export would have
// written for v: with keys that come twice, spaces, a carriage return.
func spelled(line []byte, v any) error {
	if written, err := marshal(v); err != nil || !bytes.Equal(written, line) {
		return errSpelling
	}
	return nil
}
