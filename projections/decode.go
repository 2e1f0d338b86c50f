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
	names names
	// commits are apart: the events of a run name the same two, other runs others.
	commits names
}

// maxName bounds a name that is kept, in bytes.
const maxName = 256

func newDecoder() *decoder { return &decoder{} }

// names keep one copy of strings that recur from event to event: the latest of
// each place.
type names [256]string

func placeOf[T string | []byte](s T) uint8 {
	n := len(s)
	if n == 0 {
		return 0
	}
	return uint8(n) + s[0]*7 + s[n/2]*31 + s[n-1]*61
}

// intern returns b as a string, shared with earlier equal ones.
func (n *names) intern(b []byte) string {
	kept := &n[placeOf(b)]
	if *kept != string(b) {
		*kept = string(b)
	}
	return *kept
}

func (n *names) internString(s string) string {
	kept := &n[placeOf(s)]
	if *kept != s {
		*kept = strings.Clone(s)
	}
	return *kept
}

// decode reads e's data, in the current version of its type, into f.
func (d *decoder) decode(e *eventlog.Event, f *fields) error {
	data, err := e.Current()
	if err != nil {
		return err
	}
	if err := d.walk(data, f); err != nil {
		return fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	return nil
}

func (d *decoder) walk(b []byte, f *fields) error {
	*f = fields{}
	return walkObject(b, func(key, value []byte) error {
		var err error
		switch string(key) {
		case "event":
			f.event, err = text(value, &d.names)
		case "ref":
			f.ref, err = text(value, &d.names)
		case "repository":
			f.repository, err = text(value, &d.names)
		case "commit":
			f.commit, err = text(value, &d.commits)
		case "previous_commit":
			f.previousCommit, err = text(value, &d.commits)
		case "received_at":
			f.receivedAt, err = moment(value)
		case "source":
			f.source, err = text(value, &d.names)
		case "branch":
			f.branch, err = text(value, &d.names)
		case "host":
			f.host, err = text(value, &d.names)
		case "reason":
			f.reason, err = text(value, &d.names)
		case "detail":
			f.detail, err = text(value, &d.names)
		case "superseded_by":
			f.supersededBy, err = text(value, nil)
		case "step":
			f.step, err = text(value, &d.names)
		case "exit_code":
			if string(value) != "null" {
				var code int64
				code, err = integer(value)
				n := int(code)
				f.exitCode = &n
			}
		case "signal":
			f.signal, err = text(value, &d.names)
		case "error":
			f.err, err = text(value, nil)
		case "duration_ms":
			f.durationMS, err = integer(value)
		case "then":
			f.then, err = text(value, &d.names)
		case "deployments":
			err = json.Unmarshal(value, &f.deployments)
		}
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		return nil
	})
}

// text decodes a JSON string, or null as "", and looks for it among the names
// if there are any. A NUL, which JSON can escape and a text column cannot hold,
// becomes U+FFFD, so that a fold in memory and a fold in tables are the same.
func text(value []byte, among *names) (string, error) {
	if len(value) >= 2 && value[0] == '"' && bytes.IndexByte(value, '\\') < 0 {
		if among != nil && len(value) <= maxName {
			return among.intern(value[1 : len(value)-1]), nil
		}
		return string(value[1 : len(value)-1]), nil
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return "", err
	}
	return clean(s), nil
}

func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

func integer(value []byte) (int64, error) {
	if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
		return n, nil
	}
	var n int64
	err := json.Unmarshal(value, &n)
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
