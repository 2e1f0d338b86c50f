package projections

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// fields is what the fold reads of an event's data, of whatever type. The keys
// mean the same in every type (DESIGN section 4), so one struct serves them all.
type fields struct {
	v              int
	event          string
	ref            string
	repository     string
	commit         string
	previousCommit string
	receivedAt     time.Time
	source         string
	branch         string
	host           string
	reason         string
	detail         string
	supersededBy   string
	step           string
	exitCode       *int
	signal         string
	err            string
	durationMS     int64
	then           string
	deployments    []eventlog.Assignment
}

// decoder reads events' data. A rebuild reads millions of them and needs a
// third of each, so it walks the top level of the object rather than decoding
// all of it through reflection, which costs more than the scan of the table.
type decoder struct {
	// names keeps one copy of strings that recur from event to event.
	names map[string]string
	// commits are the latest ones: the events of a run name the same two.
	commits [8]string
	turn    int
}

// maxNames and maxName (in bytes) bound the memory of the names.
const (
	maxNames = 4096
	maxName  = 256
)

func newDecoder() *decoder { return &decoder{names: make(map[string]string)} }

// intern returns b as a string, shared with earlier equal ones.
func (d *decoder) intern(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	s := string(b)
	d.keep(s)
	return s
}

func (d *decoder) internString(s string) string {
	if kept, ok := d.names[s]; ok {
		return kept
	}
	s = strings.Clone(s)
	d.keep(s)
	return s
}

func (d *decoder) keep(s string) {
	if len(d.names) >= maxNames {
		clear(d.names)
	}
	d.names[s] = s
}

// decode reads e's data into f. Data of a version that the fast path does not
// know goes through Event.Decode, which upcasts it or knows how to refuse.
func (d *decoder) decode(e *eventlog.Event, f *fields) error {
	if !known(e.Type) {
		return &eventlog.UnknownEventError{Position: e.Position, Type: e.Type}
	}
	if err := d.walk(e.Data, f); err != nil {
		return fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	if f.v == eventlog.CurrentVersion(e.Type) {
		return nil
	}
	data, err := e.Decode()
	if err != nil {
		return err
	}
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	if err := d.walk(b, f); err != nil {
		return fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	return nil
}

func known(t eventlog.Type) bool {
	switch t {
	case eventlog.TypeReceived, eventlog.TypeRedelivered, eventlog.TypeForwarded,
		eventlog.TypeVoided, eventlog.TypeStarted, eventlog.TypeDeployed,
		eventlog.TypeFailed, eventlog.TypeInterrupted, eventlog.TypeReplayed, eventlog.TypeRedacted:
		return true
	}
	return false
}

func (d *decoder) walk(b []byte, f *fields) error {
	*f = fields{}
	return walkObject(b, func(key, value []byte) error {
		var err error
		switch string(key) {
		case "v":
			var v int64
			v, err = integer(value)
			f.v = int(v)
		case "event":
			f.event, err = d.text(value, true)
		case "ref":
			f.ref, err = d.text(value, true)
		case "repository":
			f.repository, err = d.text(value, true)
		case "commit":
			f.commit, err = d.commit(value)
		case "previous_commit":
			f.previousCommit, err = d.commit(value)
		case "received_at":
			f.receivedAt, err = moment(value)
		case "source":
			f.source, err = d.text(value, true)
		case "branch":
			f.branch, err = d.text(value, true)
		case "host":
			f.host, err = d.text(value, true)
		case "reason":
			f.reason, err = d.text(value, true)
		case "detail":
			f.detail, err = d.text(value, true)
		case "superseded_by":
			f.supersededBy, err = d.text(value, false)
		case "step":
			f.step, err = d.text(value, true)
		case "exit_code":
			if string(value) != "null" {
				var code int64
				code, err = integer(value)
				n := int(code)
				f.exitCode = &n
			}
		case "signal":
			f.signal, err = d.text(value, true)
		case "error":
			f.err, err = d.text(value, false)
		case "duration_ms":
			f.durationMS, err = integer(value)
		case "then":
			f.then, err = d.text(value, true)
		case "deployments":
			err = json.Unmarshal(value, &f.deployments)
		}
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		return nil
	})
}

// text decodes a JSON string, or null as "". A NUL, which JSON can escape and a
// text column cannot hold, becomes U+FFFD, so that a fold in memory and a fold
// in tables are the same.
func (d *decoder) text(value []byte, recurs bool) (string, error) {
	if len(value) >= 2 && value[0] == '"' && bytes.IndexByte(value, '\\') < 0 {
		if recurs && len(value) <= maxName {
			return d.intern(value[1 : len(value)-1]), nil
		}
		return string(value[1 : len(value)-1]), nil
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return "", err
	}
	return clean(s), nil
}

func (d *decoder) commit(value []byte) (string, error) {
	if len(value) >= 2 && value[0] == '"' {
		for _, s := range d.commits {
			if s == string(value[1:len(value)-1]) {
				return s, nil
			}
		}
	}
	s, err := d.text(value, false)
	if err == nil && len(value) == len(s)+2 {
		d.commits[d.turn] = s
		d.turn = (d.turn + 1) % len(d.commits)
	}
	return s, err
}

func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

func integer(value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err == nil {
		return n, nil
	}
	err = json.Unmarshal(value, &n)
	return n, err
}

// moment reads a time as the tables keep it: UTC, microseconds.
func moment(value []byte) (time.Time, error) {
	var t time.Time
	if err := t.UnmarshalJSON(value); err != nil {
		return time.Time{}, err
	}
	return stored(t), nil
}

// stored is t as it comes back from a timestamptz.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

var errNotObject = errors.New("data is not a JSON object")

// walkObject calls field with each key and raw value of the top level of a
// valid JSON object (Postgres checks what enters a json column; what is not
// valid is an error or is read as something, never a panic).
func walkObject(b []byte, field func(key, value []byte) error) error {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return errNotObject
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return errNotObject
		}
		end := skipString(b, i)
		if end < 0 {
			return errNotObject
		}
		key := b[i+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			var s string
			if err := json.Unmarshal(b[i:end], &s); err != nil {
				return err
			}
			key = []byte(s)
		}
		i = space(b, end)
		if i >= len(b) || b[i] != ':' {
			return errNotObject
		}
		i = space(b, i+1)
		end = skipValue(b, i)
		if end <= i {
			return errNotObject
		}
		if err := field(key, b[i:end]); err != nil {
			return err
		}
		i = space(b, end)
		if i >= len(b) {
			return errNotObject
		}
		if b[i] == '}' {
			return nil
		}
		if b[i] != ',' {
			return errNotObject
		}
		i = space(b, i+1)
	}
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index after the string that starts at i, or -1.
func skipString(b []byte, i int) int {
	i++
	// Most strings are short: a call costs more than the look at their bytes.
	for near := min(len(b), i+16); i < near; i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	for i < len(b) {
		quote := bytes.IndexByte(b[i:], '"')
		if quote < 0 {
			return -1
		}
		escape := bytes.IndexByte(b[i:i+quote], '\\')
		if escape < 0 {
			return i + quote + 1
		}
		i += escape + 2
	}
	return -1
}

// skipValue returns the index after the value that starts at i, or -1.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	for i < len(b) {
		switch b[i] {
		case ',', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}
