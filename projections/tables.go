package projections

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// table is a read model. Its columns are the JSON names of its row's type, in the
// order of schema.sql. A test compares them with the database.
type table struct {
	name    string
	key     []string
	columns []string
}

var (
	deploymentsTable = tableOf[deploymentRow]("deployments", "instance", "slug")
	deliveriesTable  = tableOf[Delivery]("deliveries", "delivery_id", "instance")
	attemptsTable    = tableOf[Attempt]("attempts", "delivery_id", "instance", "deployment", "attempt")
)

func tableOf[Row any](name string, key ...string) table {
	t := table{name: name, key: key}
	row := reflect.TypeFor[Row]()
	for i := range row.NumField() {
		column, _, _ := strings.Cut(row.Field(i).Tag.Get("json"), ",")
		t.columns = append(t.columns, column)
	}
	return t
}

// upsert takes a JSON array of rows, and writes those that are new or changed.
func (t table) upsert(p place) string {
	name, columns := t.in(p), strings.Join(t.columns, ", ")
	return fmt.Sprintf("insert into %s (%s) select %s from json_populate_recordset(null::%s, $1::json)"+
		" on conflict (%s) do update set (%s) = (excluded.%s)",
		name, columns, columns, name, strings.Join(t.key, ", "), columns, strings.Join(t.columns, ", excluded."))
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
	CanceledBy        string        `json:"canceled_by,omitempty"`
	CanceledReason    string        `json:"canceled_reason,omitempty"`
	Pending           int           `json:"pending"`
	Deployed          int           `json:"deployed"`
	Failed            int           `json:"failed"`
	Voided            int           `json:"voided"`
	Frozen            *Hold         `json:"frozen,omitempty"`
	Pinned            *Hold         `json:"pinned,omitempty"`
}

func (d *deploymentRecord) row() deploymentRow {
	row := deploymentRow{
		Instance: d.Instance, Slug: d.Slug, Status: d.Status, LastType: d.LastType, LastEnd: d.lastEnd,
		Pending: d.Pending, Deployed: d.Deployed, Failed: d.Deployment.Failed, Voided: d.Voided,
		Frozen: d.Frozen, Pinned: d.Pinned,
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
		row.CanceledBy, row.CanceledReason = f.CanceledBy, f.CanceledReason
	}
	return row
}

func (row deploymentRow) record() *deploymentRecord {
	d := &deploymentRecord{lastEnd: row.LastEnd, Deployment: Deployment{
		Instance: row.Instance, Slug: row.Slug, Status: row.Status, LastType: row.LastType,
		Pending: row.Pending, Deployed: row.Deployed, Failed: row.Failed, Voided: row.Voided,
		Frozen: row.Frozen, Pinned: row.Pinned,
	}}
	mark := func(m Mark) *Mark {
		if m.Position == 0 {
			return nil
		}
		m.Since = stored(m.Since)
		return &m
	}
	for _, h := range []*Hold{d.Frozen, d.Pinned} {
		if h != nil {
			h.Since, h.Until, h.EndedAt = stored(h.Since), stored(h.Until), stored(h.EndedAt)
		}
	}
	d.Live = mark(Mark{row.LiveCommit, row.LiveDeliveryID, row.LiveAttempt, row.LiveSince, row.LiveActor, row.LivePosition})
	d.Running = mark(Mark{row.RunningCommit, row.RunningDeliveryID, row.RunningAttempt, row.RunningSince, row.RunningActor, row.RunningPosition})
	d.Last = mark(Mark{row.LastCommit, row.LastDeliveryID, row.LastAttempt, row.LastSince, row.LastActor, row.LastPosition})
	if row.LastEnd == OutcomeFailed {
		d.Failure = &Failure{row.FailedStep, row.FailedExitCode, row.FailedSignal, row.FailedError, row.CanceledBy, row.CanceledReason}
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
