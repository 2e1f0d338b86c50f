// Package eventlog owns the vocabulary of the product and the append-only log
// that holds it: one Go type per event, Append, Read and Follow. The current
// state of everything is a fold of this log.
package eventlog

import (
	"encoding/json"
	"fmt"
	"time"
)

// Type names an event in the past tense. The strings are stored and are part
// of the contract with readers of the log: they never change.
type Type string

// The events of the log. See the Data type of the same name for what each records.
const (
	TypeReceived    Type = "received"
	TypeRedelivered Type = "redelivered"
	TypeForwarded   Type = "forwarded"
	TypeVoided      Type = "voided"
	TypeStarted     Type = "started"
	TypeDeployed    Type = "deployed"
	TypeFailed      Type = "failed"
	TypeInterrupted Type = "interrupted"
	TypeReplayed    Type = "replayed"
	TypeRedacted    Type = "redacted"
	TypePinned      Type = "pinned"
	TypeUnpinned    Type = "unpinned"
	TypeFrozen      Type = "frozen"
	TypeThawed      Type = "thawed"
	TypeCanceled    Type = "canceled"
)

// Event is one committed transition, as stored.
type Event struct {
	// Position is gapless from 1, in commit order.
	Position int64 `json:"position"`
	// ID is a ULID, monotonic with Position.
	ID         string `json:"id"`
	Instance   string `json:"instance"`
	DeliveryID string `json:"delivery_id"`
	Type       Type   `json:"type"`
	// Deployment is the slug, or nil where the event concerns the whole delivery.
	Deployment *string `json:"deployment"`
	// Attempt counts what may recur, from 1: runs of (delivery, deployment) for
	// forwarded, started and the ends; redeliveries for redelivered; the new run
	// for replayed.
	Attempt    int       `json:"attempt"`
	Actor      string    `json:"actor"`
	RecordedAt time.Time `json:"recorded_at"`
	// Data is the JSON of the type's Data, exactly as it was appended.
	Data json.RawMessage `json:"data"`
}

// DeploymentSlug is the slug, or "" where the event concerns the whole delivery.
func (e Event) DeploymentSlug() string {
	if e.Deployment == nil {
		return ""
	}
	return *e.Deployment
}

// Transition is an event that is about to be appended: the log adds position,
// ID and time. (Instance, DeliveryID, type, Deployment, Attempt) is its identity.
type Transition struct {
	Instance   string
	DeliveryID string
	// Deployment is the slug, or "" where the event concerns the whole delivery.
	Deployment string
	Attempt    int
	Actor      string
	// Data is a value of one of the types of events, not a pointer to one.
	Data Data
}

// Data is the content of one type of event.
type Data interface{ EventType() Type }

// Source says how a delivery came in.
type Source string

// The sources of a delivery.
const (
	SourceGitHub   Source = "github"
	SourceCLI      Source = "cli"
	SourceRecovery Source = "recovery"
)

// Sources are all of them.
func Sources() []Source { return []Source{SourceGitHub, SourceCLI, SourceRecovery} }

// Reason names why a delivery, or its part for one deployment, was voided.
type Reason string

// The reasons of a void. Each void's detail names what would have had to be different.
const (
	ReasonPing               Reason = "ping"
	ReasonEventNotHandled    Reason = "event_not_handled"
	ReasonNotABranch         Reason = "not_a_branch"
	ReasonBranchDeleted      Reason = "branch_deleted"
	ReasonNoDeployment       Reason = "no_deployment"
	ReasonDeploymentDisabled Reason = "deployment_disabled"
	ReasonSuperseded         Reason = "superseded"
	ReasonStale              Reason = "stale"
	ReasonDuplicate          Reason = "duplicate"
	ReasonFrozen             Reason = "frozen"
	ReasonPinned             Reason = "pinned"
	ReasonMalformed          Reason = "malformed"
)

// Reasons are all of them.
func Reasons() []Reason {
	return []Reason{
		ReasonPing, ReasonEventNotHandled, ReasonNotABranch, ReasonBranchDeleted, ReasonNoDeployment, ReasonDeploymentDisabled,
		ReasonSuperseded, ReasonStale, ReasonDuplicate, ReasonFrozen, ReasonPinned, ReasonMalformed,
	}
}

// Received is the first event of every delivery: exactly one per (instance, delivery).
type Received struct {
	Event      string `json:"event"`
	Ref        string `json:"ref,omitempty"`
	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	HookID     string `json:"hook_id,omitempty"`
	// ReceivedAt is the listener's clock when the last byte had come.
	ReceivedAt time.Time `json:"received_at"`
	// PayloadDigest is hex SHA-256 of the delivery's salt followed by the raw body.
	PayloadDigest string `json:"payload_digest"`
	PayloadSize   int64  `json:"payload_size"`
	ContentType   string `json:"content_type,omitempty"`
	Source        Source `json:"source"`
	// Entry is the ULID of the main-queue entry: it tells a repeated reading of
	// the same entry (after a crash) from a redelivery.
	Entry string `json:"entry"`
}

// Order is what a deployment is to run, and why.
type Order struct {
	Branch string `json:"branch"`
	Commit string `json:"commit"`
	// Rule is the configuration rule that matched, for people.
	Rule string `json:"rule"`
	// ConfigDigest identifies the deployment's configuration at the decision.
	ConfigDigest string `json:"config_digest"`
	// Before is the commit from which the push moved the branch forward, so that
	// it is an ancestor of Commit. It is empty where the push says no such thing:
	// a new branch, one that was moved elsewhere (a forced push), a deploy by hand.
	Before string `json:"before,omitempty"`
	// ForcedFrom is where the branch was before a push that moved it elsewhere, or
	// zeros where the push made it: a remote that still shows that is late.
	ForcedFrom string `json:"forced_from,omitempty"`
	// Forced says that a person named this commit (deploy --ref): it is exempt
	// from the stale check, which guards against going backwards by accident.
	Forced bool `json:"forced,omitempty"`
	// Override says that a person wants it run though the deployment is frozen or pinned.
	Override bool `json:"override,omitempty"`
	// Restores says that the commit was live when a later run failed, and is put back.
	Restores bool `json:"restores,omitempty"`
}

// PassesHolds says that it runs though the deployment is frozen or pinned.
func (o Order) PassesHolds() bool { return o.Override || o.Restores }

// Assignment is the decision that one deployment is to run one commit. It is
// what becomes a file of the deployment's queue.
type Assignment struct {
	Deployment string `json:"deployment"`
	Attempt    int    `json:"attempt"`
	Order
}

// What was done with a redelivery.
const (
	ActionIgnored = "ignored"
	ActionRetried = "retried"
)

// Redelivered records that a known delivery ID came again.
type Redelivered struct {
	// Action is ActionIgnored or ActionRetried.
	Action      string       `json:"action"`
	Detail      string       `json:"detail"`
	ReceivedAt  time.Time    `json:"received_at"`
	Entry       string       `json:"entry"`
	Deployments []Assignment `json:"deployments,omitempty"`
	// PayloadDigest, PayloadSize and ContentType are as in Received, where the
	// body differs from the first one and was stored, too.
	PayloadDigest string `json:"payload_digest,omitempty"`
	PayloadSize   int64  `json:"payload_size,omitempty"`
	ContentType   string `json:"content_type,omitempty"`
}

// Forwarded hands a delivery to one deployment. The event's own deployment and
// attempt are those of the assignment.
type Forwarded struct{ Order }

// Voided ends a delivery, or its part for one deployment, without a run.
type Voided struct {
	Reason Reason `json:"reason"`
	// Detail says what would have had to be different.
	Detail string `json:"detail"`
	// SupersededBy is the delivery that took its place, for ReasonSuperseded, or that
	// is the same push, for ReasonDuplicate.
	SupersededBy string `json:"superseded_by,omitempty"`
	Commit       string `json:"commit,omitempty"`
}

// Started is appended before the first step runs; its position is the fence
// that a result must still hold.
type Started struct {
	Commit         string   `json:"commit"`
	PreviousCommit string   `json:"previous_commit,omitempty"`
	Host           string   `json:"host"`
	PID            int      `json:"pid"`
	Plan           []string `json:"plan"`
	// RunLog is the path of the run log on Host.
	RunLog string `json:"run_log"`
}

// Step is one finished step of a run.
type Step struct {
	Name       string `json:"name"`
	DurationMS int64  `json:"duration_ms"`
	// Result is "ok", "failed", "timeout" or "canceled".
	Result string `json:"result"`
}

// Deployed ends a run that succeeded.
type Deployed struct {
	Commit         string `json:"commit"`
	PreviousCommit string `json:"previous_commit,omitempty"`
	Steps          []Step `json:"steps"`
	DurationMS     int64  `json:"duration_ms"`
	// RunLogDigest is hex SHA-256 of the run log.
	RunLogDigest string `json:"run_log_digest,omitempty"`
	RunLog       string `json:"run_log,omitempty"`
}

// Failed ends a run that did not succeed.
type Failed struct {
	Commit         string `json:"commit"`
	PreviousCommit string `json:"previous_commit,omitempty"`
	// Step is the name of the step that failed.
	Step string `json:"step"`
	// ExitCode is nil where the step did not exit by itself.
	ExitCode *int `json:"exit_code,omitempty"`
	// Signal is the name of the signal that ended the step, as in "SIGKILL".
	Signal string `json:"signal,omitempty"`
	Error  string `json:"error"`
	// OutputTail is the end of the run's output, secrets masked.
	OutputTail   string `json:"output_tail,omitempty"`
	Steps        []Step `json:"steps"`
	DurationMS   int64  `json:"duration_ms"`
	RunLogDigest string `json:"run_log_digest,omitempty"`
	RunLog       string `json:"run_log,omitempty"`
}

// Interrupted records that a run was found without an end, or was cut short by
// a shutdown. Policy then retries it (a new attempt) or fails it.
type Interrupted struct {
	Detail string `json:"detail"`
	// Then is "retry" or "fail".
	Then string `json:"then"`
	Step string `json:"step,omitempty"`
}

// Replayed makes new attempts of a past delivery on a person's word.
type Replayed struct {
	Reason      string       `json:"reason"`
	Deployments []Assignment `json:"deployments"`
}

// Redacted says that the bodies of a delivery, with their salts, were deleted in
// the transaction that recorded it. There is at most one per delivery: no body of
// it is stored afterwards.
type Redacted struct {
	Reason string `json:"reason"`
	// PayloadDigests are all that the delivery's received and redelivered name.
	PayloadDigests []string `json:"payload_digests"`
}

// Pinned holds a deployment at a commit: pushes are voided until it is unpinned. Its
// delivery ID, as those of unpinned, frozen and thawed, is one made for the purpose, or
// that of the deploy that puts the commit live.
type Pinned struct {
	Commit string `json:"commit"`
	Reason string `json:"reason"`
}

// Unpinned ends the pin of a deployment.
type Unpinned struct {
	Reason string `json:"reason"`
}

// Frozen makes what comes wait, for one deployment, or for all where it names none.
type Frozen struct {
	// Until is when it ends by itself; zero is never.
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason"`
}

// Thawed ends a freeze, of one deployment or of all, as Frozen.
type Thawed struct {
	Reason string `json:"reason"`
}

// Canceled asks for the end of a run that has started. The worker ends it, and records
// it as failed.
type Canceled struct {
	Reason string `json:"reason"`
}

// UnknownEventError says that this binary is older than the event.
type UnknownEventError struct {
	Position int64
	Type     Type
	// Version is 0 where the type itself is unknown.
	Version int
}

func (e *UnknownEventError) Error() string {
	what := fmt.Sprintf("type %q", e.Type)
	if e.Version != 0 {
		what = fmt.Sprintf("version %d of type %q", e.Version, e.Type)
	}
	return fmt.Sprintf("event at position %d has %s, which this binary does not know; run a newer durhack-deployer", e.Position, what)
}

// Assignments lists the runs that an event orders; nil for events that order none.
func (e Event) Assignments() ([]Assignment, error) {
	switch e.Type {
	case TypeForwarded, TypeRedelivered, TypeReplayed:
	default:
		return nil, nil
	}
	data, err := e.Decode()
	if err != nil {
		return nil, err
	}
	switch d := data.(type) {
	case Forwarded:
		return []Assignment{{Deployment: e.DeploymentSlug(), Attempt: e.Attempt, Order: d.Order}}, nil
	case Redelivered:
		return d.Deployments, nil
	case Replayed:
		return d.Deployments, nil
	}
	return nil, nil
}
