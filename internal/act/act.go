// Package act owns what a person may have a deployer do: deploy, go back, hold,
// cancel and replay. The commands and the dashboard do it through this package, so
// that both do the same, and differ only in how they ask and what they show.
package act

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Person is somebody who acts, with what is needed for it.
type Person struct {
	// Name is the actor of what is appended.
	Name   string
	Config *config.Config
	// Log and Models are not needed for a deploy.
	Log    *eventlog.Log
	Models *projections.Projector
	// Commit finds what a reference means for a deployment.
	Commit func(ctx context.Context, d *config.Deployment, ref string) (string, error)
	// Enqueue puts a delivery in the main queue.
	Enqueue func(ctx context.Context, d delivery.Delivery) error
	// Sign signs what was appended: until then it could be cut off unseen.
	Sign func(ctx context.Context) error
	// Command is a command line as the person would type it, for hints.
	Command func(args ...string) string
}

// Error is a refusal that may say what to do next.
type Error struct {
	Err  error
	Hint string
	// Wrong says that what was asked for is wrong, whatever the state of the log.
	Wrong bool
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func wrongf(format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Wrong: true}
}

// NewID is the ID of an act that is a delivery by itself, or an event without one.
func NewID(now time.Time) string {
	return ulid.MustNew(ulid.Timestamp(now), rand.Reader).String()
}

// MaxReason is how long a reason may be, in characters.
const MaxReason = 500

// Reason is the text of a reason, or an error where it is too long: many lines show it
// whole. The log's text columns cannot hold a NUL.
func Reason(text string) (string, error) {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\x00", ""))
	if n := utf8.RuneCountInString(text); n > MaxReason {
		return "", wrongf("the reason has %d characters, and may have at most %d: say it shorter", n, MaxReason)
	}
	return text, nil
}

// state is one configured deployment as the log has it. The daemon gets a moment to
// bring its read models up to the log.
func (p *Person) state(ctx context.Context, slug string) (projections.Deployment, error) {
	if _, err := answer.Deployment(p.Config, slug); err != nil {
		return projections.Deployment{}, err
	}
	if _, err := p.Models.Await(ctx, time.Second); err != nil {
		return projections.Deployment{}, err
	}
	list, err := p.Models.Deployments(ctx, p.Config.Instance, answer.Keys(p.Config)...)
	if err != nil {
		return projections.Deployment{}, fmt.Errorf("read the state of the deployments: %w", err)
	}
	for _, d := range list {
		if d.Slug == slug {
			return d, nil
		}
	}
	return projections.Deployment{}, nil
}

// order appends what is asked of a deployment, or of all where slug is empty, under an
// ID made for the purpose.
func (p *Person) order(ctx context.Context, id, slug string, data eventlog.Data) error {
	_, err := p.Log.Append(ctx, eventlog.Group{Transitions: []eventlog.Transition{{
		Instance: p.Config.Instance, DeliveryID: id, Deployment: slug, Attempt: 1, Actor: p.Name, Data: data,
	}}})
	if err != nil {
		return fmt.Errorf("append %s: %w", data.EventType(), err)
	}
	return p.Sign(ctx)
}
