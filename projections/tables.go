package projections

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// table names the columns of a read model, in their order: that of
// schema.sql, of the row's JSON and of the row's COPY form. A test compares them.
type table struct {
	name    string
	key     []string
	columns []string
}

var (
	deploymentsTable = table{"deployments", []string{"instance", "slug"}, []string{
		"instance", "slug", "status",
		"live_commit", "live_delivery_id", "live_attempt", "live_since", "live_actor", "live_position",
		"running_commit", "running_delivery_id", "running_attempt", "running_since", "running_actor", "running_position",
		"last_type", "last_commit", "last_delivery_id", "last_attempt", "last_since", "last_actor", "last_position",
		"last_end", "failed_step", "failed_exit_code", "failed_signal", "failed_error",
		"pending", "deployed", "failed", "voided",
	}}
	deliveriesTable = table{"deliveries", []string{"delivery_id", "instance"}, []string{
		"instance", "delivery_id", "state", "event", "ref", "repository", "commit", "actor", "source",
		"received_at", "received_position", "voided_position", "reason", "detail",
		"attempts", "open", "redeliveries", "replays", "last_position", "last_at",
	}}
	attemptsTable = table{"attempts", []string{"delivery_id", "instance", "deployment", "attempt"}, []string{
		"instance", "delivery_id", "deployment", "attempt", "outcome", "cause", "assigned_position", "assigned_at",
		"actor", "branch", "commit", "previous_commit", "started_position", "started_at", "host",
		"ended_position", "ended_at", "duration_ms", "step", "exit_code", "signal", "error",
		"reason", "detail", "superseded_by", "next", "continued_by",
	}}
)

// upsert takes a JSON array of rows, and writes those that are new or changed.
func (t table) upsert(p place) string {
	name, columns := t.in(p), strings.Join(t.columns, ", ")
	return fmt.Sprintf("insert into %s (%s) select %s from json_populate_recordset(null::%s, $1::json)"+
		" on conflict (%s) do update set (%s) = (excluded.%s)",
		name, columns, columns, name, strings.Join(t.key, ", "), columns, strings.Join(t.columns, ", excluded."))
}

// copyIn takes rows in the binary COPY form.
func (t table) copyIn(p place) string {
	return fmt.Sprintf("copy %s (%s) from stdin binary", t.in(p), strings.Join(t.columns, ", "))
}

// deploymentRow is the flat form of a Deployment, as the table has it.
type deploymentRow struct {
	Instance          string        `json:"instance"`
	Slug              string        `json:"slug"`
	Status            Status        `json:"status"`
	LiveCommit        string        `json:"live_commit,omitempty"`
	LiveDeliveryID    string        `json:"live_delivery_id,omitempty"`
	LiveAttempt       int           `json:"live_attempt,omitempty"`
	LiveSince         time.Time     `json:"live_since,omitzero"`
	LiveActor         string        `json:"live_actor,omitempty"`
	LivePosition      int64         `json:"live_position,omitempty"`
	RunningCommit     string        `json:"running_commit,omitempty"`
	RunningDeliveryID string        `json:"running_delivery_id,omitempty"`
	RunningAttempt    int           `json:"running_attempt,omitempty"`
	RunningSince      time.Time     `json:"running_since,omitzero"`
	RunningActor      string        `json:"running_actor,omitempty"`
	RunningPosition   int64         `json:"running_position,omitempty"`
	LastType          eventlog.Type `json:"last_type,omitempty"`
	LastCommit        string        `json:"last_commit,omitempty"`
	LastDeliveryID    string        `json:"last_delivery_id,omitempty"`
	LastAttempt       int           `json:"last_attempt,omitempty"`
	LastSince         time.Time     `json:"last_since,omitzero"`
	LastActor         string        `json:"last_actor,omitempty"`
	LastPosition      int64         `json:"last_position,omitempty"`
	LastEnd           Outcome       `json:"last_end,omitempty"`
	FailedStep        string        `json:"failed_step,omitempty"`
	FailedExitCode    *int          `json:"failed_exit_code,omitempty"`
	FailedSignal      string        `json:"failed_signal,omitempty"`
	FailedError       string        `json:"failed_error,omitempty"`
	Pending           int           `json:"pending"`
	Deployed          int           `json:"deployed"`
	Failed            int           `json:"failed"`
	Voided            int           `json:"voided"`
}

func (d *deploymentRecord) row() deploymentRow {
	row := deploymentRow{
		Instance: d.Instance, Slug: d.Slug, Status: d.Status, LastType: d.LastType, LastEnd: d.lastEnd,
		Pending: d.Pending, Deployed: d.Deployed, Failed: d.Deployment.Failed, Voided: d.Voided,
	}
	if m := d.Live; m != nil {
		row.LiveCommit, row.LiveDeliveryID, row.LiveAttempt = m.Commit, m.DeliveryID, m.Attempt
		row.LiveSince, row.LiveActor, row.LivePosition = m.Since, m.Actor, m.Position
	}
	if m := d.Running; m != nil {
		row.RunningCommit, row.RunningDeliveryID, row.RunningAttempt = m.Commit, m.DeliveryID, m.Attempt
		row.RunningSince, row.RunningActor, row.RunningPosition = m.Since, m.Actor, m.Position
	}
	if m := d.Last; m != nil {
		row.LastCommit, row.LastDeliveryID, row.LastAttempt = m.Commit, m.DeliveryID, m.Attempt
		row.LastSince, row.LastActor, row.LastPosition = m.Since, m.Actor, m.Position
	}
	if f := d.Failure; f != nil {
		row.FailedStep, row.FailedExitCode, row.FailedSignal, row.FailedError = f.Step, f.ExitCode, f.Signal, f.Error
	}
	return row
}

func (row deploymentRow) record() *deploymentRecord {
	d := &deploymentRecord{lastEnd: row.LastEnd, Deployment: Deployment{
		Instance: row.Instance, Slug: row.Slug, Status: row.Status, LastType: row.LastType,
		Pending: row.Pending, Deployed: row.Deployed, Failed: row.Failed, Voided: row.Voided,
	}}
	mark := func(m Mark) *Mark {
		if m.Position == 0 {
			return nil
		}
		m.Since = stored(m.Since)
		return &m
	}
	d.Live = mark(Mark{row.LiveCommit, row.LiveDeliveryID, row.LiveAttempt, row.LiveSince, row.LiveActor, row.LivePosition})
	d.Running = mark(Mark{row.RunningCommit, row.RunningDeliveryID, row.RunningAttempt, row.RunningSince, row.RunningActor, row.RunningPosition})
	d.Last = mark(Mark{row.LastCommit, row.LastDeliveryID, row.LastAttempt, row.LastSince, row.LastActor, row.LastPosition})
	if row.LastEnd == OutcomeFailed {
		d.Failure = &Failure{Step: row.FailedStep, ExitCode: row.FailedExitCode, Signal: row.FailedSignal, Error: row.FailedError}
	}
	return d
}

// unmarshalRow reads a row of a read model from its JSON.
func unmarshalRow[T Delivery | Attempt | deploymentRow](b []byte) (T, error) {
	var row T
	if err := json.Unmarshal(b, &row); err != nil {
		return row, fmt.Errorf("read a row of the read models: %w", err)
	}
	switch r := any(&row).(type) {
	case *Delivery:
		r.ReceivedAt, r.LastAt = stored(r.ReceivedAt), stored(r.LastAt)
	case *Attempt:
		r.AssignedAt, r.StartedAt, r.EndedAt = stored(r.AssignedAt), stored(r.StartedAt), stored(r.EndedAt)
	}
	return row, nil
}

// rows is the binary COPY form of rows of one table, under construction
// (PostgreSQL documentation, COPY, "Binary Format").
type rows struct {
	b []byte
	n int
}

var copySignature = []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")

func (r *rows) begin(columns int) {
	if r.n == 0 {
		r.b = append(r.b[:0], copySignature...)
	}
	r.n++
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(columns))
}

func (r *rows) reset() { r.b, r.n = r.b[:0], 0 }

func (r *rows) finish() []byte { return append(r.b, 0xff, 0xff) }

// text is a text that is null where it is empty; key is one that is never null.
func (r *rows) text(s string) {
	if s == "" {
		r.null()
		return
	}
	r.key(s)
}

func (r *rows) key(s string) {
	r.b = binary.BigEndian.AppendUint32(r.b, uint32(len(s)))
	r.b = append(r.b, s...)
}

func (r *rows) int4(n int) {
	r.b = binary.BigEndian.AppendUint32(r.b, 4)
	r.b = binary.BigEndian.AppendUint32(r.b, uint32(int32(n)))
}

func (r *rows) int8(n int64) {
	r.b = binary.BigEndian.AppendUint32(r.b, 8)
	r.b = binary.BigEndian.AppendUint64(r.b, uint64(n))
}

// count8 and count4 are numbers that are null where they are 0.
func (r *rows) count8(n int64) {
	if n == 0 {
		r.null()
		return
	}
	r.int8(n)
}

func (r *rows) count4(n int) {
	if n == 0 {
		r.null()
		return
	}
	r.int4(n)
}

func (r *rows) null() { r.b = binary.BigEndian.AppendUint32(r.b, 0xffffffff) }

func (r *rows) optional(n *int) {
	if n == nil {
		r.null()
		return
	}
	r.int4(*n)
}

// epoch is 2000-01-01, from which Postgres counts microseconds.
const epoch = 946684800

func (r *rows) moment(t time.Time) {
	if t.IsZero() {
		r.null()
		return
	}
	r.int8((t.Unix()-epoch)*1_000_000 + int64(t.Nanosecond()/1000))
}

func (r *rows) delivery(d *Delivery) {
	r.begin(len(deliveriesTable.columns))
	r.key(d.Instance)
	r.key(d.ID)
	r.key(string(d.State))
	r.text(d.Event)
	r.text(d.Ref)
	r.text(d.Repository)
	r.text(d.Commit)
	r.text(d.Actor)
	r.text(d.Source)
	r.moment(d.ReceivedAt)
	r.count8(d.ReceivedPosition)
	r.count8(d.VoidedPosition)
	r.text(d.Reason)
	r.text(d.Detail)
	r.int4(d.Attempts)
	r.int4(d.Open)
	r.int4(d.Redeliveries)
	r.int4(d.Replays)
	r.int8(d.LastPosition)
	r.moment(d.LastAt)
}

func (r *rows) attempt(a *Attempt) {
	r.begin(len(attemptsTable.columns))
	r.key(a.Instance)
	r.key(a.DeliveryID)
	r.key(a.Deployment)
	r.int4(a.Attempt)
	r.key(string(a.Outcome))
	r.text(string(a.Cause))
	r.count8(a.AssignedPosition)
	r.moment(a.AssignedAt)
	r.text(a.Actor)
	r.text(a.Branch)
	r.text(a.Commit)
	r.text(a.PreviousCommit)
	r.count8(a.StartedPosition)
	r.moment(a.StartedAt)
	r.text(a.Host)
	r.count8(a.EndedPosition)
	r.moment(a.EndedAt)
	r.count8(a.DurationMS)
	r.text(a.Step)
	r.optional(a.ExitCode)
	r.text(a.Signal)
	r.text(a.Error)
	r.text(a.Reason)
	r.text(a.Detail)
	r.text(a.SupersededBy)
	r.text(a.Next)
	r.count4(a.ContinuedBy)
}
