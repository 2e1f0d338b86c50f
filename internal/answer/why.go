package answer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Meant finds the delivery that has this ID or the only one that begins so, or else ("")
// the deliveries that carried the commit that has this hash, or begins so.
func (s Source) Meant(ctx context.Context, what string) (id string, carried []eventlog.Event, err error) {
	if carried, err = s.Carrying(ctx, what); err != nil {
		return "", nil, err
	}
	id, err = s.DeliveryID(ctx, what)
	if unknown, ok := IsUnknownDelivery(err); ok && unknown.Unrouted == nil && MaybeCommit(what) {
		if len(carried) > 0 {
			return "", carried, nil
		}
		unknown.err = fmt.Errorf("%w, and no delivery that carried such a commit", unknown.err)
	}
	if err == nil && id != what && len(carried) > 0 {
		lines := []string{"delivery " + id}
		for _, e := range carried {
			lines = append(lines, Summary(e))
		}
		err = AmbiguousError(what, lines)
	}
	return id, nil, err
}

// Why reads what became of a delivery, whose ID DeliveryID found.
func (s Source) Why(ctx context.Context, id string) (*Story, error) {
	events, err := s.Delivery(ctx, id)
	if err != nil {
		return nil, err
	}
	known, err := s.Deployments(ctx, Moment{})
	if err != nil {
		return nil, err
	}
	y, err := NewStory(id, events, known)
	if err != nil {
		return nil, err
	}
	y.held = s.Held(ctx, known)
	y.ahead = func(slug string) string {
		d := known[slug]
		if y.State.Parts[slug].Assignment.PassesHolds() {
			d.Frozen = nil
		}
		return s.Ahead(ctx, id, slug, d)
	}
	return y, nil
}

// Row is what came, and what became of it.
func (y *Story) Row() DeliveryRow {
	return newDeliveryRow(y.Events[0], y.State, liveOf(y.known, y.held))
}

// live says, of a commit that was deployed, whether it still is what is live.
func (y *Story) live(slug string, part router.Part) string {
	d, ok := y.known[slug]
	if h := y.held[slug]; h != nil {
		return fmt.Sprintf("; %s; %s", h, NewStatusRow(&config.Deployment{}, d, time.Now()).LastDeployed(func(id string) string { return id }))
	}
	if !ok || d.Live == nil {
		return ""
	}
	if d.Live.DeliveryID == y.ID && d.Live.Attempt == part.Attempt {
		return ", which is what is live now"
	}
	if d.Live.Commit == part.Assignment.Commit {
		return fmt.Sprintf(", which is live now, by delivery %s", d.Live.DeliveryID)
	}
	return fmt.Sprintf("; live now is %s, by delivery %s", words.ShortCommit(d.Live.Commit), d.Live.DeliveryID)
}

// Ahead says what a delivery waits for at a deployment of this instance.
func (s Source) Ahead(ctx context.Context, id, slug string, d projections.Deployment) string {
	now := time.Now()
	switch {
	case s.Config.Deployments[slug] == nil:
		return ", which is not in the configuration, so that nobody deploys it"
	case d.Frozen.Active(now):
		return ", which is " + HoldNotes(d, now)[0]
	case d.Running != nil && d.Running.DeliveryID != id:
		return fmt.Sprintf(", which is busy with %s of delivery %s", words.ShortCommit(d.Running.Commit), d.Running.DeliveryID)
	}
	if why := s.Obstacle(ctx, slug); why != "" {
		return ", which does not begin: " + why
	}
	switch {
	case d.Status == projections.StatusNever:
		return ""
	case d.Pending > 1:
		return fmt.Sprintf(", where %d deliveries wait", d.Pending)
	}
	return ""
}

// frozen says that a part waits for the end of a freeze.
func (y *Story) frozen(part router.Part) bool {
	return y.known[part.Assignment.Deployment].Frozen.Active(y.now) && !part.Assignment.PassesHolds()
}

// Story is what there is to say about one delivery: the outcome, how it came about,
// and what can be done.
type Story struct {
	ID     string
	Events []eventlog.Event
	State  router.DeliveryState
	// known are the deployments as they are now, by slug.
	known map[string]projections.Deployment
	// now is when that was.
	now time.Time
	// held is what the paths hold that do not hold what was deployed last.
	held map[string]*Held
	// ahead says what a part that waits waits for; nil where nobody knows.
	ahead func(slug string) string
}

// NewStory is the story of a delivery by its events alone.
func NewStory(id string, events []eventlog.Event, known map[string]projections.Deployment) (*Story, error) {
	state, err := router.Fold(events)
	return &Story{ID: id, Events: events, State: state, known: known, now: time.Now()}, err
}

// Verdict is the one sentence that anyone who asks wants first.
func (y *Story) Verdict() string {
	s := y.State
	if len(s.Parts) == 0 {
		if s.Void != nil {
			return fmt.Sprintf("Delivery %s did not deploy (%s): %s.", y.ID, s.Void.Reason, strings.TrimSuffix(s.Void.Detail, "."))
		}
		if s.Received == nil { // a freeze, a pin, or the end of one
			return fmt.Sprintf("%s is no delivery, but what %s asked for.", y.ID, y.Events[0].Actor)
		}
		return fmt.Sprintf("Delivery %s has been received and is not decided yet.", y.ID)
	}
	var parts []string
	for _, slug := range s.Deployments() {
		part := s.Parts[slug]
		commit := words.ShortCommit(part.Assignment.Commit)
		switch part.Status {
		case router.StatusDeployed:
			parts = append(parts, fmt.Sprintf("deployed %s to %s%s", commit, slug, y.live(slug, part)))
		case router.StatusFailed:
			how := strings.Replace(AtStep(part.Step), " ", ", ", 1)
			if canceled := y.canceled(slug, part.Attempt); canceled != "" {
				how = ", " + canceled
			}
			parts = append(parts, fmt.Sprintf("failed to deploy %s to %s%s%s", commit, slug, how, y.live(slug, part)))
		case router.StatusVoided:
			parts = append(parts, fmt.Sprintf("did not deploy %s to %s (%s)%s", commit, slug, part.Reason, y.live(slug, part)))
		case router.StatusRunning:
			how := ""
			if canceled := y.canceled(slug, part.Attempt); canceled != "" {
				how = ", and is being ended: " + canceled
			}
			parts = append(parts, fmt.Sprintf("is deploying %s to %s now%s", commit, slug, how))
		default:
			ahead := ""
			if y.ahead != nil {
				ahead = y.ahead(slug)
			}
			parts = append(parts, fmt.Sprintf("waits to deploy %s to %s%s", commit, slug, ahead))
		}
	}
	return fmt.Sprintf("Delivery %s %s.", y.ID, strings.Join(parts, "; it "))
}

// canceled says by whom an attempt was canceled, and why.
func (y *Story) canceled(slug string, attempt int) string {
	for _, e := range y.Events {
		if e.Type != eventlog.TypeCanceled || e.DeploymentSlug() != slug || e.Attempt != attempt {
			continue
		}
		if data, err := e.Decode(); err == nil {
			if d, ok := data.(eventlog.Canceled); ok {
				return words.Canceled(e.Actor, d.Reason)
			}
		}
	}
	return ""
}

// Explain says what an event means and what decided it.
func Explain(e eventlog.Event, data eventlog.Data) string {
	where := e.DeploymentSlug()
	if e.Attempt > 1 {
		where += fmt.Sprintf(", attempt %d", e.Attempt)
	}
	switch d := data.(type) {
	case eventlog.Received:
		return Summary(e) + cameBy(d)
	case eventlog.Forwarded:
		s := fmt.Sprintf("to %s, because %s; commit %s", where, d.Rule, d.Commit)
		if d.Forced {
			s += ", named by hand, so it may be older than what is live"
		}
		return s
	case eventlog.Replayed:
		return fmt.Sprintf("%s, as attempt %d", Summary(e), e.Attempt)
	}
	if where == "" || e.Deployment == nil {
		return Summary(e)
	}
	return where + ": " + Summary(e)
}

// Next says what can be done: nothing where all is well. command makes a call of this
// program that can be copied.
func (y *Story) Next(command func(args ...string) string) []string {
	var lines []string
	replay := command("replay", y.ID, "--reason", "...")
	if y.State.Redacted != nil { // nothing is left to replay, but the commit can be deployed
		replay = command("deploy", "SLUG", "--ref", "COMMIT")
	}
	runNow := func(part router.Part) string {
		slug := part.Assignment.Deployment
		args := []string{"deploy", slug, "--ref", part.Assignment.Commit}
		if d := y.known[slug]; d.Frozen.Active(y.now) || d.Pinned.Active(y.now) {
			args = append(args, "--override", "--reason", "...")
		}
		return command(args...)
	}
	waits := false
	var failed, voided []router.Part
	for _, slug := range y.State.Deployments() {
		part := y.State.Parts[slug]
		switch part.Status {
		case router.StatusFailed:
			failed = append(failed, part)
		case router.StatusVoided:
			voided = append(voided, part)
		case router.StatusRunning:
			lines = append(lines, "Watch it:            "+command("logs", y.ID, "--deployment", slug, "--follow"))
		case router.StatusWaiting:
			waits = true
			if y.frozen(part) {
				end := holdEnds(y.known[slug], y.now)[0]
				lines = append(lines, "To end the freeze:   "+command(end...), "To run it at once:   "+runNow(part))
			}
		}
	}
	switch {
	case len(failed) > 0 && y.canceled(failed[0].Assignment.Deployment, failed[0].Attempt) != "":
		lines = append(lines, "To run it after all: "+replay)
	case len(failed) > 0:
		lines = append(lines, "Once that is fixed: "+replay)
	case waits:
		lines = append(lines, "See what waits:      "+command("queue", "list"))
	case y.State.Void != nil && len(y.State.Parts) == 0 && fixable(y.State.Void.Reason):
		lines = append(lines, "Once that is fixed: "+replay)
	}
	for _, part := range voided {
		slug := part.Assignment.Deployment
		if part.Reason == eventlog.ReasonPinned && y.known[slug].Pinned.Active(y.now) {
			lines = append(lines, "To let pushes pass: "+command("unpin", slug, "--deploy", "--reason", "..."))
		}
		if part.Reason == eventlog.ReasonStale || part.Reason == eventlog.ReasonSuperseded || part.Reason == eventlog.ReasonPinned {
			lines = append(lines, "To run it anyway: "+runNow(part))
		} else if fixable(part.Reason) {
			lines = append(lines, "Once that is fixed: "+replay)
		}
	}
	return lines
}

// fixable says whether another configuration would have decided otherwise.
func fixable(r eventlog.Reason) bool {
	return r == eventlog.ReasonNoDeployment || r == eventlog.ReasonDeploymentDisabled || r == eventlog.ReasonFrozen
}
