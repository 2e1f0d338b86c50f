package answer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// A delivery and a commit are named by a unique beginning.

const (
	// MinAbbreviation is how many characters of an ID or a hash are enough.
	MinAbbreviation = 6
	// maxListed bounds how many are listed of what an abbreviation may mean.
	maxListed = 10
)

// MaybeCommit says whether a hash, or the beginning of one, may be meant.
func MaybeCommit(text string) bool {
	return len(text) >= MinAbbreviation && names.CommitBeginning(strings.ToLower(text))
}

// AmbiguousError says what an abbreviation may mean, a line each.
func AmbiguousError(text string, lines []string) *Error {
	more := ""
	if len(lines) > maxListed {
		lines, more = lines[:maxListed], "\n  ... and more"
	}
	return &Error{
		Kind: Ambiguous, Candidates: lines, Hint: "give more characters of the one that you mean",
		err: fmt.Errorf("%q is ambiguous:\n  %s%s", text, strings.Join(lines, "\n  "), more),
	}
}

// DeliveryID finds the delivery that has this ID, or the only one whose ID begins
// so. Of one that is not routed yet, which the log does not have, it says that.
func (s Source) DeliveryID(ctx context.Context, text string) (string, error) {
	return s.DeliveryOf(ctx, []string{s.Config.Instance}, text)
}

// DeliveryOf is DeliveryID for other instances, or several.
func (s Source) DeliveryOf(ctx context.Context, instances []string, text string) (string, error) {
	found := map[string]string{} // a line for each, by its ID: two instances may have got the same
	// Before the log: what is not there any more is in the log.
	waiting, queueErr := unrouted(s.Config, instances, text)
	for _, instance := range instances {
		exact, err := s.Few(ctx, eventlog.Filter{Instance: instance, DeliveryID: text, Limit: 1}) // whatever it begins with
		if err != nil {
			return "", err
		}
		if len(exact) > 0 {
			return text, nil
		}
		if len(text) < MinAbbreviation {
			continue
		}
		more, err := s.Few(ctx, eventlog.Filter{Instance: instance, DeliveryPrefix: text, Types: []eventlog.Type{eventlog.TypeReceived}})
		if err != nil {
			return "", err
		}
		for _, e := range more {
			found[e.DeliveryID] = fmt.Sprintf("%s  %s  %s", e.DeliveryID, words.Clock(e.RecordedAt), words.Shorten(Summary(e), MaxSummary))
		}
	}
	inLog := len(found)
	next := ""
	if len(waiting) > 0 {
		next = s.NotRouted(ctx)
	}
	for _, w := range waiting {
		if found[w.DeliveryID] == "" {
			found[w.DeliveryID] = fmt.Sprintf("%s  %s  %s", w.DeliveryID, words.Clock(w.Since), w.Why(next))
		}
	}
	switch ids := slices.Sorted(maps.Keys(found)); {
	case len(ids) > 1:
		return "", AmbiguousError(text, slices.Sorted(maps.Values(found)))
	case inLog == 1:
		return ids[0], nil
	case queueErr != nil:
		return "", queueErr
	}
	name, hint := text, "`durhack-deployer log --type received` lists the deliveries; one that never came is on GitHub's \"Recent deliveries\" page"
	switch {
	case len(waiting) > 0:
		name, hint = waiting[0].DeliveryID, "it "+waiting[0].Why(next)
	case len(text) < MinAbbreviation:
		hint = fmt.Sprintf("an abbreviation has at least %d characters; %s", MinAbbreviation, hint)
	}
	unknown := &Error{
		Kind: UnknownDelivery, Hint: hint,
		err: fmt.Errorf("the log of instance %s has no delivery %q", strings.Trim(fmt.Sprintf("%q", instances), "[]"), name),
	}
	if len(waiting) > 0 {
		unknown.Unrouted = &waiting[0]
	}
	return "", unknown
}

// Few are the events that a filter finds, at most one more than are listed.
func (s Source) Few(ctx context.Context, f eventlog.Filter) ([]eventlog.Event, error) {
	f.Limit = cmp.Or(f.Limit, maxListed+1)
	return collect(s.Log.Find(ctx, f))
}

// unrouted lists the deliveries of the main queue that may be meant.
func unrouted(cfg *config.Config, instances []string, text string) ([]QueueRow, error) {
	if !slices.Contains(instances, cfg.Instance) {
		return nil, nil
	}
	entries, err := QueueEntries(cfg, names.MainQueue)
	return slices.DeleteFunc(entries, func(e QueueRow) bool {
		return e.DeliveryID != text && (len(text) < MinAbbreviation || !strings.HasPrefix(e.DeliveryID, text))
	}), err
}

// Why says why an entry of the main queue is not in the log; next is NotRouted.
func (r QueueRow) Why(next string) string {
	if r.Reason != "" {
		return "is in quarantine: " + r.Reason
	}
	return "waits in the main queue to be routed: " + next
}

// DeploymentInLog is Deployment for questions to the log: one that is not configured any
// more may be in it.
func (s Source) DeploymentInLog(ctx context.Context, slug string) error {
	_, unknown := Deployment(s.Config, slug)
	if unknown == nil {
		return nil
	}
	found, err := s.Few(ctx, eventlog.Filter{Deployment: slug, Limit: 1})
	if err == nil && len(found) == 0 {
		err = unknown
	}
	return err
}

// Delivery reads the events of one delivery, whose ID DeliveryID found.
func (s Source) Delivery(ctx context.Context, id string) ([]eventlog.Event, error) {
	return collect(s.Log.Find(ctx, eventlog.Filter{Instance: s.Config.Instance, DeliveryID: id}))
}

// Carrying lists the deliveries whose commit has this hash, or begins so.
func (s Source) Carrying(ctx context.Context, text string) ([]eventlog.Event, error) {
	if !MaybeCommit(text) {
		return nil, nil
	}
	f := eventlog.Filter{Instance: s.Config.Instance, Types: []eventlog.Type{eventlog.TypeReceived}, Commit: strings.ToLower(text)}
	return collect(s.Log.Find(ctx, f))
}

// QueueRow is a line of `queue list --json`.
type QueueRow struct {
	Queue      string    `json:"queue"`
	Entry      string    `json:"entry"`
	DeliveryID string    `json:"delivery_id"`
	Since      time.Time `json:"since"`
	// Reason is set for an entry in quarantine.
	Reason string `json:"quarantined,omitempty"`
}

// QueueEntries lists what waits in a queue, and what is in its quarantine.
func QueueEntries(cfg *config.Config, name string) ([]QueueRow, error) {
	dir := cfg.QueueDir(name)
	entries, err := queue.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list queue %s: %w", name, err)
	}
	var rows []QueueRow
	for _, e := range entries {
		rows = append(rows, QueueRow{Queue: name, Entry: e.Name, DeliveryID: e.DeliveryID, Since: ulid.Time(e.ID.Time())})
	}
	bad, err := queue.ListQuarantine(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the quarantine of queue %s: %w", name, err)
	}
	for _, q := range bad {
		row := QueueRow{Queue: name, Entry: q.Name, Reason: q.Reason, Since: q.Since}
		if e, err := queue.ParseName(q.Name); err == nil {
			row.DeliveryID = e.DeliveryID
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// DeliveriesOf reads the events of many deliveries, by delivery.
func (s Source) DeliveriesOf(ctx context.Context, ids []string) (map[string][]eventlog.Event, error) {
	events := make(map[string][]eventlog.Event, len(ids))
	for e, err := range s.Log.Find(ctx, eventlog.Filter{Instance: s.Config.Instance, DeliveryIDs: ids}) {
		if err != nil {
			return nil, err
		}
		events[e.DeliveryID] = append(events[e.DeliveryID], e)
	}
	return events, nil
}

// NotRouted says why what is in the main queue is not in the log.
func (s Source) NotRouted(ctx context.Context) string {
	if why := s.Obstacle(ctx, ""); why != "" {
		return why
	}
	return "the worker takes it next"
}
