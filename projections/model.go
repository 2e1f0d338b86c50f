package projections

import (
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// Status is the state of a deployment by its newest fact.
type Status string

// The states of a deployment. "disabled" is a matter of configuration, which
// the log does not know.
const (
	StatusNever   Status = "never"
	StatusPending Status = "pending"
	StatusRunning Status = "running"
	StatusLive    Status = "live"
	StatusFailed  Status = "failed"
)

// Mark points at one moment of a deployment's history.
type Mark struct {
	Commit     string
	DeliveryID string
	Attempt    int
	Since      time.Time
	Actor      string
	// Position is that of the event that made the mark.
	Position int64
}

// Failure says how the newest run failed. The JSON names are those of `status`.
type Failure struct {
	Step string `json:"step"`
	// ExitCode is nil where the step did not exit by itself.
	ExitCode *int   `json:"exit_code"`
	Signal   string `json:"signal,omitempty"`
	Error    string `json:"error"`
	// CanceledBy is who asked for its end, and CanceledReason why.
	CanceledBy     string `json:"canceled_by,omitempty"`
	CanceledReason string `json:"canceled_reason,omitempty"`
}

// Hold is a pin or a freeze, and stays for a look at the past when it has ended.
type Hold struct {
	// Commit is the one that a pin holds.
	Commit string    `json:"commit,omitempty"`
	Reason string    `json:"reason"`
	Actor  string    `json:"actor"`
	Since  time.Time `json:"since"`
	// Until is when a freeze ends by itself; zero is never.
	Until time.Time `json:"until,omitzero"`
	// Position is that of the event that made it, Ended of the one that ended it, or 0;
	// EndedAt is when that was recorded.
	Position int64     `json:"position"`
	Ended    int64     `json:"ended,omitempty"`
	EndedAt  time.Time `json:"ended_at,omitzero"`
}

// Active says that the hold is in force at a time.
func (h *Hold) Active(at time.Time) bool {
	return h != nil && h.Ended == 0 && (h.Until.IsZero() || at.Before(h.Until))
}

// All stands for all deployments of an instance, where a hold is for all of them.
const All = "*"

// Deployment is the state of one deployment of one instance.
type Deployment struct {
	Instance string
	Slug     string
	Status   Status
	// Live is what is live: the newest deployed run. Nil where nothing ever was.
	Live *Mark
	// Running is the run in progress; its Position is that of the started event.
	Running *Mark
	// Last is the newest transition of any kind, and LastType says which.
	Last     *Mark
	LastType eventlog.Type
	// Failure is set while the newest ended run (voids aside) is a failed one.
	Failure *Failure
	// Pending counts the assignments that wait to run, interrupted ones included.
	Pending int
	// Deployed, Failed and Voided count the ends.
	Deployed, Failed, Voided int
	// Frozen and Pinned are its newest holds, ended or not; Frozen may be one for All.
	Frozen, Pinned *Hold
	// FrozenWithAll says that Frozen is one for All.
	FrozenWithAll bool
}

// DeliveryState is what became of a delivery.
type DeliveryState string

// The states of a delivery. Unreceived is a breach: events without a received.
const (
	DeliveryPending    DeliveryState = "pending"
	DeliveryVoided     DeliveryState = "voided"
	DeliveryFinished   DeliveryState = "finished"
	DeliveryUnreceived DeliveryState = "unreceived"
)

// Delivery is the state of one delivery of one instance. The JSON names are the
// columns of the table deliveries, in order; what is empty is null there.
type Delivery struct {
	Instance   string        `json:"instance"`
	ID         string        `json:"delivery_id"`
	State      DeliveryState `json:"state"`
	Event      string        `json:"event,omitempty"`
	Ref        string        `json:"ref,omitempty"`
	Repository string        `json:"repository,omitempty"`
	Commit     string        `json:"commit,omitempty"`
	Actor      string        `json:"actor,omitempty"`
	Source     string        `json:"source,omitempty"`
	// ReceivedAt is the listener's clock; zero where nothing was received.
	ReceivedAt time.Time `json:"received_at,omitzero"`
	// ReceivedPosition is 0 where nothing was received.
	ReceivedPosition int64 `json:"received_position,omitempty"`
	// VoidedPosition is that of the newest void of the whole delivery, or 0.
	VoidedPosition int64  `json:"voided_position,omitempty"`
	Reason         string `json:"reason,omitempty"`
	Detail         string `json:"detail,omitempty"`
	// Attempts counts the attempts of all its deployments, Open those that have
	// not ended.
	Attempts int `json:"attempts"`
	Open     int `json:"open"`
	// Redeliveries and Replays count those events.
	Redeliveries int `json:"redeliveries"`
	Replays      int `json:"replays"`
	// LastPosition and LastAt are those of its newest event.
	LastPosition int64     `json:"last_position"`
	LastAt       time.Time `json:"last_at,omitzero"`
}

// Outcome is the state of an attempt.
type Outcome string

// The outcomes of an attempt; the first two are not ends. Interrupted is an
// end of the attempt only once a later attempt continues it.
const (
	OutcomeWaiting     Outcome = "waiting"
	OutcomeRunning     Outcome = "running"
	OutcomeDeployed    Outcome = "deployed"
	OutcomeFailed      Outcome = "failed"
	OutcomeVoided      Outcome = "voided"
	OutcomeInterrupted Outcome = "interrupted"
)

// Attempt is one run, or one that is still to come, of a delivery by a
// deployment. The JSON names are the columns of the table attempts, in order; what is empty
// is null there.
type Attempt struct {
	Instance   string  `json:"instance"`
	DeliveryID string  `json:"delivery_id"`
	Deployment string  `json:"deployment"`
	Attempt    int     `json:"attempt"`
	Outcome    Outcome `json:"outcome"`
	// Cause is the type of the event that ordered the attempt; a retry after an
	// interruption has that of the attempt it continues. Empty is a breach.
	Cause            eventlog.Type `json:"cause,omitempty"`
	AssignedPosition int64         `json:"assigned_position,omitempty"`
	AssignedAt       time.Time     `json:"assigned_at,omitzero"`
	// Actor is who ordered it: GitHub's sender, or the person who replayed.
	Actor          string `json:"actor,omitempty"`
	Branch         string `json:"branch,omitempty"`
	Commit         string `json:"commit,omitempty"`
	PreviousCommit string `json:"previous_commit,omitempty"`
	// StartedPosition and EndedPosition are 0 until then.
	StartedPosition int64     `json:"started_position,omitempty"`
	StartedAt       time.Time `json:"started_at,omitzero"`
	Host            string    `json:"host,omitempty"`
	// EndedPosition is also set by an interruption.
	EndedPosition int64     `json:"ended_position,omitempty"`
	EndedAt       time.Time `json:"ended_at,omitzero"`
	DurationMS    int64     `json:"duration_ms,omitempty"`
	// Step is the step that failed, or that was interrupted.
	Step     string `json:"step,omitempty"`
	ExitCode *int   `json:"exit_code,omitempty"`
	Signal   string `json:"signal,omitempty"`
	Error    string `json:"error,omitempty"`
	// Reason and Detail are those of a void; an interruption has a Detail too.
	Reason       string `json:"reason,omitempty"`
	Detail       string `json:"detail,omitempty"`
	SupersededBy string `json:"superseded_by,omitempty"`
	// Next is what an interruption decided: "retry" or "fail".
	Next string `json:"next,omitempty"`
	// CanceledBy is who asked for its end while it ran, and CanceledReason why.
	CanceledBy     string `json:"canceled_by,omitempty"`
	CanceledReason string `json:"canceled_reason,omitempty"`
	// ContinuedBy is the attempt that took over from this interrupted one, or 0.
	ContinuedBy int `json:"continued_by,omitempty"`
}

// Open says that the attempt still owes an end.
func (a *Attempt) Open() bool {
	switch a.Outcome {
	case OutcomeWaiting, OutcomeRunning:
		return true
	case OutcomeInterrupted:
		return a.ContinuedBy == 0
	}
	return false
}

// pending says that the attempt waits for a worker, rather than runs.
func (a *Attempt) pending() bool { return a.Open() && a.Outcome != OutcomeRunning }
