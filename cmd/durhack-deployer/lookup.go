package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Everything that a person names is looked up here: a deployment by its slug, a
// delivery and a commit by a unique beginning.

const (
	// minAbbreviation is how many characters of an ID or a hash are enough.
	minAbbreviation = 6
	// maxListed bounds how many are listed of what an abbreviation may mean.
	maxListed = 10
)

// maybeCommit says whether a hash, or the beginning of one, may be meant.
func maybeCommit(text string) bool {
	return len(text) >= minAbbreviation && names.CommitBeginning(strings.ToLower(text))
}

// ambiguous says what an abbreviation may mean, a line each.
func ambiguous(text string, lines []string) error {
	more := ""
	if len(lines) > maxListed {
		lines, more = lines[:maxListed], "\n  ... and more"
	}
	return &usageError{&hintedError{
		fmt.Errorf("%q is ambiguous:\n  %s%s", text, strings.Join(lines, "\n  "), more),
		"give more characters of the one that you mean",
	}}
}

// unknownDeliveryError says that the log has no such delivery.
type unknownDeliveryError struct {
	error
	unrouted *queueRow // it is in the main queue
}

func (e *unknownDeliveryError) Unwrap() error { return e.error }

// deliveryID finds the delivery that has this ID, or the only one whose ID begins
// so. Of one that is not routed yet, which the log does not have, it says that.
func deliveryID(ctx context.Context, cfg *config.Config, store *daemon.Store, text string) (string, error) {
	return deliveryOf(ctx, cfg, store, []string{cfg.Instance}, text)
}

// deliveryOf is deliveryID for other instances, or several.
func deliveryOf(ctx context.Context, cfg *config.Config, store *daemon.Store, instances []string, text string) (string, error) {
	found := map[string]string{} // a line for each, by its ID: two instances may have got the same
	// Before the log: what is not there any more is in the log.
	waiting, queueErr := unrouted(cfg, instances, text)
	for _, instance := range instances {
		exact, err := deliveries(ctx, store, eventlog.Filter{Instance: instance, DeliveryID: text, Limit: 1}) // whatever it begins with
		if err != nil {
			return "", err
		}
		if len(exact) > 0 {
			return text, nil
		}
		if len(text) < minAbbreviation {
			continue
		}
		more, err := deliveries(ctx, store, eventlog.Filter{Instance: instance, DeliveryPrefix: text, Types: []eventlog.Type{eventlog.TypeReceived}})
		if err != nil {
			return "", err
		}
		for _, e := range more {
			found[e.DeliveryID] = fmt.Sprintf("%s  %s  %s", e.DeliveryID, clock(e.RecordedAt), shorten(summary(e), maxSummary))
		}
	}
	inLog := len(found)
	next := ""
	if len(waiting) > 0 {
		next = notRouted(ctx, cfg)
	}
	for _, w := range waiting {
		if found[w.DeliveryID] == "" {
			found[w.DeliveryID] = fmt.Sprintf("%s  %s  %s", w.DeliveryID, clock(w.Since), w.why(next))
		}
	}
	switch ids := slices.Sorted(maps.Keys(found)); {
	case len(ids) > 1:
		return "", ambiguous(text, slices.Sorted(maps.Values(found)))
	case inLog == 1:
		return ids[0], nil
	case queueErr != nil:
		return "", queueErr
	}
	name, hint := text, "`durhack-deployer log --type received` lists the deliveries; one that never came is on GitHub's \"Recent deliveries\" page"
	switch {
	case len(waiting) > 0:
		name, hint = waiting[0].DeliveryID, "it "+waiting[0].why(next)
	case len(text) < minAbbreviation:
		hint = fmt.Sprintf("an abbreviation has at least %d characters; %s", minAbbreviation, hint)
	}
	unknown := &unknownDeliveryError{error: &hintedError{
		fmt.Errorf("the log of instance %s has no delivery %q", strings.Trim(fmt.Sprintf("%q", instances), "[]"), name), hint,
	}}
	if len(waiting) > 0 {
		unknown.unrouted = &waiting[0]
	}
	return "", unknown
}

// deliveries are the events that a filter finds, at most one more than are listed.
func deliveries(ctx context.Context, store *daemon.Store, f eventlog.Filter) ([]eventlog.Event, error) {
	f.Limit = cmp.Or(f.Limit, maxListed+1)
	return collect(store.Log.Find(ctx, f))
}

// collect reads all of what a question to the log finds.
func collect(found iter.Seq2[eventlog.Event, error]) ([]eventlog.Event, error) {
	var events []eventlog.Event
	for e, err := range found {
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// unrouted lists the deliveries of the main queue that may be meant.
func unrouted(cfg *config.Config, instances []string, text string) ([]queueRow, error) {
	if !slices.Contains(instances, cfg.Instance) {
		return nil, nil
	}
	entries, err := queueEntries(cfg, names.MainQueue)
	return slices.DeleteFunc(entries, func(e queueRow) bool {
		return e.DeliveryID != text && (len(text) < minAbbreviation || !strings.HasPrefix(e.DeliveryID, text))
	}), err
}

// why says why an entry of the main queue is not in the log; next is notRouted.
func (r queueRow) why(next string) string {
	if r.Reason != "" {
		return "is in quarantine: " + r.Reason
	}
	return "waits in the main queue to be routed: " + next
}

// deliveryIDs is deliveryID of each, and each once: a slip must not deploy twice.
func deliveryIDs(ctx context.Context, cfg *config.Config, store *daemon.Store, texts []string) ([]string, error) {
	var ids []string
	for _, text := range texts {
		id, err := deliveryID(ctx, cfg, store, text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// deliveryEvents reads the events of one delivery, whose ID deliveryID found.
func deliveryEvents(ctx context.Context, cfg *config.Config, store *daemon.Store, id string) ([]eventlog.Event, error) {
	return collect(store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, DeliveryID: id}))
}

// carrying lists the deliveries whose commit has this hash, or begins so.
func carrying(ctx context.Context, cfg *config.Config, store *daemon.Store, text string) ([]eventlog.Event, error) {
	if !maybeCommit(text) {
		return nil, nil
	}
	f := eventlog.Filter{Instance: cfg.Instance, Types: []eventlog.Type{eventlog.TypeReceived}, Commit: strings.ToLower(text)}
	return collect(store.Log.Find(ctx, f))
}

// commit finds what a reference means for a deployment: a ref of the remote, or
// the beginning of a hash, of which the working tree and then the log are asked.
func (c *cli) commit(ctx context.Context, cfg *config.Config, d *config.Deployment, ref string) (string, error) {
	if ref == "" {
		ref = "refs/heads/" + d.Branch
	}
	repo := daemon.Repository(cfg, d).Patient(git.DefaultPatience, func(why string) { fmt.Fprintln(c.err, printable(why)) })
	found, err := repo.Resolve(ctx, ref)
	if err == nil {
		return found.Commit, nil
	}
	err = fmt.Errorf("find %q at the remote of %s: %w", ref, d.Slug, err)
	if !errors.Is(err, git.ErrRefNotFound) || !maybeCommit(ref) {
		return "", err
	}
	known, gitErr := repo.Beginning(ctx, strings.ToLower(ref))
	if gitErr != nil {
		return "", gitErr
	}
	lines := map[string]string{}
	for _, k := range known {
		lines[k.Hash] = fmt.Sprintf("%s  %s  %s", k.Hash, k.Date, shorten(k.Subject, maxSummary))
	}
	if len(known) == 0 { // it was pushed, but never fetched here
		if logErr := c.pushedCommits(ctx, d, ref, lines); logErr != nil {
			return "", errors.Join(err, fmt.Errorf("look for it in the log: %w", logErr))
		}
	}
	switch commits := slices.Sorted(maps.Keys(lines)); len(commits) {
	case 0:
		return "", err
	case 1:
		return commits[0], nil
	default:
		return "", ambiguous(ref, slices.Sorted(maps.Values(lines)))
	}
}

// pushedCommits adds, by commit, what the log knows of pushes to the deployment's
// repository whose commit begins so.
func (c *cli) pushedCommits(ctx context.Context, d *config.Deployment, text string, lines map[string]string) error {
	return c.withStore(ctx, func(cfg *config.Config, store *daemon.Store) error {
		events, err := carrying(ctx, cfg, store, text)
		if err != nil {
			return err
		}
		for _, e := range events {
			data, err := e.Decode()
			if err != nil {
				return err
			}
			if r, ok := data.(eventlog.Received); ok && strings.EqualFold(r.Repository, d.Repository) {
				lines[r.Commit] = fmt.Sprintf("%s  %s  %s", r.Commit, clock(e.RecordedAt), summary(e))
			}
		}
		return nil
	})
}

// deployments reads the read model, or folds the log up to a moment.
func deployments(ctx context.Context, cfg *config.Config, store *daemon.Store, at moment) (map[string]projections.Deployment, error) {
	var list []projections.Deployment
	if at.set {
		state, err := at.fold(ctx, store, cfg.Instance)
		if err != nil {
			return nil, err
		}
		list = state.Deployments(cfg.Instance)
	} else {
		models, err := readModels(ctx, store)
		if err != nil {
			return nil, err
		}
		if list, err = models.Deployments(ctx, cfg.Instance); err != nil {
			return nil, fmt.Errorf("read the state of the deployments: %w", err)
		}
	}
	bySlug := make(map[string]projections.Deployment, len(list))
	for _, d := range list {
		bySlug[d.Slug] = d
	}
	return bySlug, nil
}

// readModels are those of the store. The daemon gets a moment to bring them up to the
// log, so that a question right after a deploy finds it.
func readModels(ctx context.Context, store *daemon.Store) (*projections.Projector, error) {
	p := projections.New(store.Pool, store.Log, discard())
	_, err := p.Await(ctx, time.Second) // statusNotes says how far behind it still is
	return p, err
}

// verifierKey is the key that the caller trusts: the one named, or the own one.
func (c *cli) verifierKey(public string) (note.Verifier, error) {
	if public != "" {
		v, err := checkpoint.ParseVerifier(public)
		if err != nil {
			return nil, usagef("--key: %w", err)
		}
		return v, nil
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	key, err := daemon.SigningKey(cfg)
	if err != nil {
		return nil, &hintedError{err, "name the verifier key with --key"}
	}
	if key == nil {
		return nil, usagef("there is no signing key here; name the verifier key with --key")
	}
	return key.Verifier(), nil
}

// queueRow is a line of `queue list --json`.
type queueRow struct {
	Queue      string    `json:"queue"`
	Entry      string    `json:"entry"`
	DeliveryID string    `json:"delivery_id"`
	Since      time.Time `json:"since"`
	// Reason is set for an entry in quarantine.
	Reason string `json:"quarantined,omitempty"`
}

func queueEntries(cfg *config.Config, name string) ([]queueRow, error) {
	dir := daemon.QueueDir(cfg, name)
	entries, err := queue.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list queue %s: %w", name, err)
	}
	var rows []queueRow
	for _, e := range entries {
		rows = append(rows, queueRow{Queue: name, Entry: e.Name, DeliveryID: e.DeliveryID, Since: ulid.Time(e.ID.Time())})
	}
	bad, err := queue.ListQuarantine(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the quarantine of queue %s: %w", name, err)
	}
	for _, q := range bad {
		row := queueRow{Queue: name, Entry: q.Name, Reason: q.Reason, Since: q.Since}
		if e, err := queue.ParseName(q.Name); err == nil {
			row.DeliveryID = e.DeliveryID
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// fullPatience is how long a command waits for a free connection of the server.
const fullPatience = 10 * time.Second

// withStore runs f with the configuration and the open log. A private cluster
// that is stopped is started for as long as f needs it.
func (c *cli) withStore(ctx context.Context, f func(cfg *config.Config, store *daemon.Store) error) error {
	patience, cancel := context.WithTimeout(ctx, fullPatience)
	defer cancel()
	return c.withStoreOnce(ctx, patience, eventlog.Full, f)
}

// withStoreOnce is withStore that waits until patience ends for what passes.
func (c *cli) withStoreOnce(ctx, patience context.Context, passes func(error) bool, f func(cfg *config.Config, store *daemon.Store) error) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	var store *daemon.Store
	c.databaseOutage().Until(patience, func() error {
		if store, err = daemon.OpenStore(ctx, cfg, c.logger(slog.LevelWarn), false); err != nil && passes(err) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer store.Close()
	return f(cfg, store)
}

// databaseOutage is told of as a wait for the database.
func (c *cli) databaseOutage() *retry.Outage {
	return retry.New(c.logger(slog.LevelWarn), slog.LevelWarn, "waiting for the database")
}

// heldElse looks at the paths that do not hold what was deployed last.
func heldElse(ctx context.Context, cfg *config.Config, known map[string]projections.Deployment) map[string]*check.Held {
	held := map[string]*check.Held{}
	for slug, d := range cfg.Deployments {
		if h := check.HeldElse(ctx, cfg, d, known[slug]); h != nil {
			held[slug] = h
		}
	}
	return held
}

// eventsOf reads the events of many deliveries, by delivery.
func eventsOf(ctx context.Context, cfg *config.Config, store *daemon.Store, ids []string) (map[string][]eventlog.Event, error) {
	events := make(map[string][]eventlog.Event, len(ids))
	for e, err := range store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, DeliveryIDs: ids}) {
		if err != nil {
			return nil, err
		}
		events[e.DeliveryID] = append(events[e.DeliveryID], e)
	}
	return events, nil
}

// actor is the person at the command line, for the log.
func actor() string { return actorOf(os.Geteuid(), os.Getenv("SUDO_USER")) }

// actorOf trusts SUDO_USER only of root, who can be anybody anyway: others
// would sign with any name. Nor is USER trusted, which os/user does where
// /etc/passwd does not have the user, so that is read here.
func actorOf(uid int, sudoUser string) string {
	if uid == 0 && sudoUser != "" {
		return sudoUser
	}
	id := strconv.Itoa(uid)
	passwd, _ := os.ReadFile("/etc/passwd") // without it there is still the number
	for line := range strings.Lines(string(passwd)) {
		if field := strings.Split(line, ":"); len(field) > 2 && field[2] == id {
			return field[0]
		}
	}
	return "uid " + id
}

// bodies lists the digests of what a delivery brought, and whether it is gone.
func bodies(events []eventlog.Event) (digests []string, redacted *eventlog.Event, err error) {
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return nil, nil, err
		}
		switch d := data.(type) {
		case eventlog.Received:
			if d.PayloadDigest != "" {
				digests = append(digests, d.PayloadDigest)
			}
		case eventlog.Redelivered:
			if d.PayloadDigest != "" {
				digests = append(digests, d.PayloadDigest)
			}
		case eventlog.Redacted:
			redacted = &e
		}
	}
	return digests, redacted, nil
}

// config loads the configuration that --config names, or the default one.
func (c *cli) config() (*config.Config, error) {
	paths := c.paths()
	if len(paths) == 0 {
		return nil, &hintedError{
			err:  fmt.Errorf("no configuration: /etc/durhack-deployer/ and ./config/ have no *.toml file"),
			hint: "name one with --config FILE; `durhack-deployer demo` needs none",
		}
	}
	return config.Load(paths, os.Getenv)
}

// paths are where the configuration is.
func (c *cli) paths() []string {
	if len(c.configPaths) > 0 {
		return c.configPaths
	}
	return config.DefaultPaths()
}
