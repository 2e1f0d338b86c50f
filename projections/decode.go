package projections

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// fields is what the fold reads of an event's data, of whatever type. The keys
// mean the same in every type, so one struct serves them all.
type fields struct {
	Event          string                `json:"event"`
	Ref            string                `json:"ref"`
	Repository     string                `json:"repository"`
	Commit         string                `json:"commit"`
	PreviousCommit string                `json:"previous_commit"`
	ReceivedAt     time.Time             `json:"received_at"`
	Source         string                `json:"source"`
	Branch         string                `json:"branch"`
	Host           string                `json:"host"`
	Reason         string                `json:"reason"`
	Detail         string                `json:"detail"`
	SupersededBy   string                `json:"superseded_by"`
	Step           string                `json:"step"`
	ExitCode       *int                  `json:"exit_code"`
	Signal         string                `json:"signal"`
	Error          string                `json:"error"`
	DurationMS     int64                 `json:"duration_ms"`
	Then           string                `json:"then"`
	Until          time.Time             `json:"until"`
	Deployments    []eventlog.Assignment `json:"deployments"`
}

// fieldsOf returns what the fold reads of e's data, in the current version of its type.
func fieldsOf(e *eventlog.Event) (fields, error) {
	var f fields
	data, err := e.Current()
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("decode %s at position %d: %w", e.Type, e.Position, err)
	}
	f.ReceivedAt, f.Until = stored(f.ReceivedAt), stored(f.Until)
	if bytes.Contains(data, []byte(`\u0000`)) {
		cleanStrings(reflect.ValueOf(&f).Elem())
	}
	return f, nil
}

// cleanStrings replaces NUL, which JSON can escape and a text column cannot hold,
// by U+FFFD, so that a fold in memory and a fold in tables are the same.
func cleanStrings(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(clean(v.String()))
	case reflect.Slice:
		for i := range v.Len() {
			cleanStrings(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				cleanStrings(v.Field(i))
			}
		}
	}
}

func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

// stored is t as it comes back from a timestamptz.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}
