// Package metrics owns the figures that Prometheus collects: a tally of the log's
// events, what is seen of the host when somebody asks, and the same tally made of the
// log's past. Labels are bounded: slugs of the configuration and words of the
// vocabulary, never text of senders.
package metrics

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// namespace begins the name of each of our metrics.
const namespace = "durhack_deployer"

// other is the label of what is not in the configuration or the vocabulary.
const other = "other"

// The results of a run that has ended.
const (
	resultDeployed = "deployed"
	resultFailed   = "failed"
	resultCanceled = "canceled"
)

// LabelNames are those of the tally's series.
var LabelNames = []string{"source", "action", "deployment", "reason", "result", "le"}

// ofOrders are the reasons for which the worker voids what was ordered of a deployment.
var ofOrders = []eventlog.Reason{eventlog.ReasonDeploymentDisabled, eventlog.ReasonSuperseded, eventlog.ReasonStale, eventlog.ReasonPinned}

// seconds are the bounds of durations: of a switch that takes a second, and of a
// build that takes half an hour.
var seconds = []float64{0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}

// Tally counts what happens to the deliveries of an instance, from the fold of the
// log. It is a prometheus.Collector, and safe for concurrent use.
type Tally struct {
	instance string
	slugs    []string
	since    time.Time

	mu    sync.Mutex
	state *projections.State

	received, redelivered, voided, ended, interrupted *prometheus.CounterVec
	duration, wait, lead                              *prometheus.HistogramVec
	all                                               []prometheus.Collector
}

// NewTally returns a tally that goes on from a state, which it owns from then on.
// Events that were recorded before since are known and not counted. Only the slugs
// become labels.
func NewTally(instance string, slugs []string, state *projections.State, since time.Time) *Tally {
	t := &Tally{instance: instance, slugs: slugs, state: state, since: since}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		t.all = append(t.all, v)
		return v
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: seconds}, labels)
		t.all = append(t.all, v)
		return v
	}
	t.received = counter("received_total", "Deliveries that were recorded, by where they came from.", "source")
	t.redelivered = counter("redelivered_total", "Deliveries that came again, by what was done.", "action")
	t.voided = counter("voided_total", "Deliveries, or their parts for one deployment, that ended without a run. Without a deployment it is the whole delivery.", "deployment", "reason")
	t.ended = counter("deploys_total", "Runs that ended, by their result.", "deployment", "result")
	t.interrupted = counter("interrupted_total", "Runs that were found without an end, or cut short by a shutdown.", "deployment")
	t.duration = histogram("deploy_duration_seconds", "How long runs took, by their result.", "deployment", "result")
	t.wait = histogram("deploy_wait_seconds", "From an order to the start of its first run.", "deployment")
	t.lead = histogram("deploy_lead_time_seconds", "From the arrival of a push to the end of the run that put it live.", "deployment")

	// A series that begins at its first event hides that event from rate().
	for _, s := range eventlog.Sources() {
		t.received.WithLabelValues(string(s))
	}
	for _, action := range []string{eventlog.ActionIgnored, eventlog.ActionRetried} {
		t.redelivered.WithLabelValues(action)
	}
	for _, r := range eventlog.Reasons() {
		t.voided.WithLabelValues("", string(r))
	}
	for _, slug := range slugs {
		for _, result := range []string{resultDeployed, resultFailed, resultCanceled} {
			t.ended.WithLabelValues(slug, result)
			t.duration.WithLabelValues(slug, result)
		}
		for _, r := range ofOrders {
			t.voided.WithLabelValues(slug, string(r))
		}
		t.interrupted.WithLabelValues(slug)
		t.wait.WithLabelValues(slug)
		t.lead.WithLabelValues(slug)
	}
	return t
}

// Position is that of the last event that was counted, or that the state began with.
func (t *Tally) Position() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state.Position()
}

// Apply counts an event. Those of other instances do not count.
func (t *Tally) Apply(e *eventlog.Event) error {
	if e.Instance != t.instance {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	data, err := e.Decode()
	if err != nil {
		return err
	}
	if err := t.state.Apply(e); err != nil {
		return err
	}
	if !e.RecordedAt.Before(t.since) {
		t.count(e, data)
	}
	if e.Type != eventlog.TypeReceived { // whose decision comes next
		t.state.ForgetEnded(e.Instance, e.DeliveryID)
	}
	return nil
}

func (t *Tally) count(e *eventlog.Event, data eventlog.Data) {
	switch d := data.(type) {
	case eventlog.Received:
		t.received.WithLabelValues(among(eventlog.Sources(), d.Source)).Inc()
	case eventlog.Redelivered:
		t.redelivered.WithLabelValues(among([]string{eventlog.ActionIgnored, eventlog.ActionRetried}, d.Action)).Inc()
	case eventlog.Voided:
		t.voided.WithLabelValues(t.slug(e), among(eventlog.Reasons(), d.Reason)).Inc()
	case eventlog.Interrupted:
		t.interrupted.WithLabelValues(t.slug(e)).Inc()
	case eventlog.Started:
		t.started(e)
	case eventlog.Deployed, eventlog.Failed:
		t.runEnded(e)
	}
}

func (t *Tally) started(e *eventlog.Event) {
	a, ok := t.state.Attempt(e.Instance, e.DeliveryID, e.DeploymentSlug(), e.Attempt)
	if !ok || a.AssignedAt.IsZero() {
		return
	}
	for n := e.Attempt - 1; n > 0; n-- {
		if before, _ := t.state.Attempt(e.Instance, e.DeliveryID, e.DeploymentSlug(), n); before.ContinuedBy == e.Attempt {
			return // not the first run of its order
		}
	}
	t.wait.WithLabelValues(t.slug(e)).Observe(max(0, a.StartedAt.Sub(a.AssignedAt).Seconds()))
}

func (t *Tally) runEnded(e *eventlog.Event) {
	a, ok := t.state.Attempt(e.Instance, e.DeliveryID, e.DeploymentSlug(), e.Attempt)
	if !ok {
		return
	}
	slug, result := t.slug(e), resultDeployed
	switch {
	case e.Type == eventlog.TypeFailed && a.CanceledBy != "":
		result = resultCanceled
	case e.Type == eventlog.TypeFailed:
		result = resultFailed
	}
	t.ended.WithLabelValues(slug, result).Inc()
	t.duration.WithLabelValues(slug, result).Observe(float64(a.DurationMS) / 1000)
	d, ok := t.state.Delivery(e.Instance, e.DeliveryID)
	if result == resultDeployed && ok && !d.ReceivedAt.IsZero() && d.Source != string(eventlog.SourceCLI) && a.Cause == eventlog.TypeForwarded {
		t.lead.WithLabelValues(slug).Observe(max(0, a.EndedAt.Sub(d.ReceivedAt).Seconds()))
	}
}

// slug is the label of an event's deployment.
func (t *Tally) slug(e *eventlog.Event) string {
	slug := e.DeploymentSlug()
	if slug == "" || slices.Contains(t.slugs, slug) {
		return slug
	}
	return other
}

// among is s where the vocabulary has it.
func among[S ~string](vocabulary []S, s S) string {
	if slices.Contains(vocabulary, s) {
		return string(s)
	}
	return other
}

// Deployments are those of the instance as of Position.
func (t *Tally) Deployments(also ...projections.Key) []projections.Deployment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state.Deployments(t.instance, also...)
}

// Describe is of prometheus.Collector.
func (t *Tally) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range t.all {
		c.Describe(ch)
	}
}

// Collect is of prometheus.Collector. What it gives is of one position of the log.
func (t *Tally) Collect(ch chan<- prometheus.Metric) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.all {
		c.Collect(ch)
	}
}

// Answers counts the answers to webhooks of the listener in this process.
type Answers struct{ *prometheus.CounterVec }

// NewAnswers returns one that begins at zero.
func NewAnswers() *Answers {
	return &Answers{prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "webhook_answers_total", Help: "Answers to webhooks by the listener in this process, by their HTTP status.",
	}, []string{"code"})}
}

// Begin shows statuses that were not answered yet.
func (a *Answers) Begin(statuses ...int) {
	for _, status := range statuses {
		a.WithLabelValues(strconv.Itoa(status))
	}
}

// Count counts an answer.
func (a *Answers) Count(status int) { a.WithLabelValues(strconv.Itoa(status)).Inc() }
