package answer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

func commit(n int) string { return fmt.Sprintf("%040x", n) }

func short(n int) string { return commit(n)[:12] }

// history are the events of one delivery, d1, at web.
func history(t *testing.T, data ...eventlog.Data) (events []eventlog.Event) {
	t.Helper()
	for i, d := range data {
		raw, err := eventlog.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		e := eventlog.Event{Position: int64(i + 1), Instance: "test", DeliveryID: "d1", Type: d.EventType(), Attempt: 1, Actor: "ada", RecordedAt: time.Unix(int64(i), 0), Data: raw}
		switch v := d.(type) {
		case eventlog.Received, eventlog.Replayed:
		case eventlog.Voided:
			if v.Commit != "" { // of the deployment, and not of the whole
				e.Deployment = new("web")
			}
		default:
			e.Deployment = new("web")
		}
		events = append(events, e)
	}
	return events
}

var (
	came      = eventlog.Received{Event: "push", Ref: "refs/heads/main", Repository: "o/web", Commit: commit(1), Source: eventlog.SourceGitHub}
	forwarded = eventlog.Forwarded{Order: eventlog.Order{Branch: "main", Commit: commit(1), Rule: "r"}}
	started   = eventlog.Started{Commit: commit(1), Host: "h", Plan: []string{"test"}}
	deployed  = eventlog.Deployed{Commit: commit(1), Steps: []eventlog.Step{}}
	failed    = eventlog.Failed{Commit: commit(1), Step: "test", Error: "no", Steps: []eventlog.Step{}}
)

func TestStory_SaysWhatBecameOfTheDelivery(t *testing.T) {
	t.Parallel()
	live := func(n int, id string) map[string]projections.Deployment {
		return map[string]projections.Deployment{"web": {Slug: "web", Live: &projections.Mark{Commit: commit(n), DeliveryID: id, Attempt: 1}}}
	}
	for name, c := range map[string]struct {
		events []eventlog.Data
		known  map[string]projections.Deployment
		held   *Held
		want   string
		next   []string
	}{
		"undecided": {[]eventlog.Data{came}, nil, nil, "Delivery d1 has been received and is not decided yet.", nil},
		"voided as a whole": {[]eventlog.Data{came, eventlog.Voided{Reason: eventlog.ReasonNoDeployment, Detail: "add one."}}, nil, nil,
			"Delivery d1 did not deploy (no_deployment): add one.", []string{"replay d1"}},
		"a ping":  {[]eventlog.Data{came, eventlog.Voided{Reason: eventlog.ReasonPing, Detail: "it is a ping"}}, nil, nil, "Delivery d1 did not deploy (ping): it is a ping.", nil},
		"a pin":   {[]eventlog.Data{eventlog.Pinned{Commit: commit(1), Reason: "r"}}, nil, nil, "d1 is no delivery, but what ada asked for.", nil},
		"waiting": {[]eventlog.Data{came, forwarded}, nil, nil, "Delivery d1 waits to deploy " + short(1) + " to web, behind others.", []string{"queue list"}},
		"running": {[]eventlog.Data{came, forwarded, started}, nil, nil, "Delivery d1 is deploying " + short(1) + " to web now.", []string{"logs d1 --deployment web --follow"}},
		"live":    {[]eventlog.Data{came, forwarded, started, deployed}, live(1, "d1"), nil, "Delivery d1 deployed " + short(1) + " to web, which is what is live now.", nil},
		"live by another": {[]eventlog.Data{came, forwarded, started, deployed}, live(1, "d2"), nil,
			"Delivery d1 deployed " + short(1) + " to web, which is live now, by delivery d2.", nil},
		"live no more": {[]eventlog.Data{came, forwarded, started, deployed}, live(2, "d2"), nil,
			"Delivery d1 deployed " + short(1) + " to web; live now is " + short(2) + ", by delivery d2.", nil},
		"spoilt": {[]eventlog.Data{came, forwarded, started, deployed}, live(1, "d1"), &Held{Commit: commit(3)},
			"Delivery d1 deployed " + short(1) + " to web; path holds commit " + short(3) + "; deployed last was " + short(1) + ", by d1.", nil},
		"failed": {[]eventlog.Data{came, forwarded, started, failed}, nil, nil, "Delivery d1 failed to deploy " + short(1) + " to web, at step test.", []string{"replay d1"}},
		"canceled": {[]eventlog.Data{came, forwarded, started, eventlog.Canceled{Reason: "why"}, failed}, nil, nil,
			"Delivery d1 failed to deploy " + short(1) + " to web, canceled by ada: why.", []string{"replay d1"}},
		"stale": {[]eventlog.Data{came, forwarded, eventlog.Voided{Reason: eventlog.ReasonStale, Detail: "x", Commit: commit(1)}}, nil, nil,
			"Delivery d1 did not deploy " + short(1) + " to web (stale).", []string{"deploy web --ref " + commit(1)}},
		"disabled": {[]eventlog.Data{came, forwarded, eventlog.Voided{Reason: eventlog.ReasonDeploymentDisabled, Detail: "x", Commit: commit(1)}}, nil, nil,
			"Delivery d1 did not deploy " + short(1) + " to web (deployment_disabled).", []string{"replay d1"}},
		"pinned": {[]eventlog.Data{came, forwarded, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "x", Commit: commit(1)}}, nil, nil,
			"Delivery d1 did not deploy " + short(1) + " to web (pinned).", []string{"deploy web --ref " + commit(1)}},
		"pinned still": {[]eventlog.Data{came, forwarded, eventlog.Voided{Reason: eventlog.ReasonPinned, Detail: "x", Commit: commit(1)}},
			map[string]projections.Deployment{"web": {Slug: "web", Pinned: &projections.Hold{}}}, nil,
			"Delivery d1 did not deploy " + short(1) + " to web (pinned).", []string{"unpin web --deploy --reason", "deploy web --ref " + commit(1) + " --override --reason"}},
		"frozen": {[]eventlog.Data{came, forwarded}, map[string]projections.Deployment{"web": {Slug: "web", Frozen: &projections.Hold{}}}, nil,
			"Delivery d1 waits to deploy " + short(1) + " to web, behind others.", []string{"thaw web --reason", "deploy web --ref " + commit(1) + " --override --reason", "queue list"}},
		"frozen with all": {[]eventlog.Data{came, forwarded}, map[string]projections.Deployment{"web": {Slug: "web", Frozen: &projections.Hold{}, FrozenWithAll: true}}, nil,
			"Delivery d1 waits to deploy " + short(1) + " to web, behind others.", []string{"thaw --reason", "deploy web --ref " + commit(1) + " --override --reason", "queue list"}},
		"being canceled": {[]eventlog.Data{came, forwarded, started, eventlog.Canceled{Reason: "why"}}, nil, nil,
			"Delivery d1 is deploying " + short(1) + " to web now, and is being ended: canceled by ada: why.", []string{"logs d1"}},
	} {
		y, err := NewStory("d1", history(t, c.events...), c.known)
		if err != nil {
			t.Fatal(name, err)
		}
		if c.held != nil {
			y.held = map[string]*Held{"web": c.held}
		}
		y.ahead = func(slug string) string { return ", behind others" }
		if got := y.Verdict(); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
		next := y.Next(func(args ...string) string { return strings.Join(args, " ") })
		same := slices.EqualFunc(next, c.next, func(got, want string) bool { return strings.Contains(got, want) })
		if !same {
			t.Errorf("%s: %q, and not %q", name, next, c.next)
		}
	}
}

func TestWhyNotLive(t *testing.T) {
	t.Parallel()
	for want, at := range map[string]projections.Attempt{
		"it failed at step test":                                 {Outcome: projections.OutcomeFailed, Step: "test"},
		"it failed at step test with exit code 0":                {Outcome: projections.OutcomeFailed, Step: "test", ExitCode: new(0), Signal: "SIGTERM"},
		"it failed at step test, ended by SIGKILL":               {Outcome: projections.OutcomeFailed, Step: "test", Signal: "SIGKILL"},
		"it was canceled by ada: why":                            {Outcome: projections.OutcomeFailed, Step: "test", CanceledBy: "ada", CanceledReason: "why"},
		"stale: older":                                           {Outcome: projections.OutcomeVoided, Reason: "stale", Detail: "older"},
		"superseded: newer (by delivery d2)":                     {Outcome: projections.OutcomeVoided, Reason: "superseded", Detail: "newer", SupersededBy: "d2"},
		"it was interrupted":                                     {Outcome: projections.OutcomeInterrupted},
		"it was interrupted and will be tried again":             {Outcome: projections.OutcomeInterrupted, Next: "retry"},
		"it was interrupted and went on as attempt 2":            {Outcome: projections.OutcomeInterrupted, Next: "retry", ContinuedBy: 2},
		"it was live until another took its place":               {Outcome: projections.OutcomeDeployed},
		"it has been running since 2026-01-02 03:04:05" + zone(): {Outcome: projections.OutcomeRunning, StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)},
	} {
		if got := WhyNotLive(at, projections.Deployment{}); got != want {
			t.Errorf("%q, and not %q", got, want)
		}
	}
	// A run that was canceled and was deployed all the same is none that failed for it.
	if got := Canceled(projections.Attempt{Outcome: projections.OutcomeDeployed, CanceledBy: "ada"}); got != "" {
		t.Errorf("%q", got)
	}
}

func zone() string { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local).Format("-07:00") }

func TestAttemptRow_CountsOnlyWhatThereWas(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	ms := func(p *int64) int64 {
		if p == nil {
			return -1
		}
		return *p
	}
	for name, c := range map[string]struct {
		at         projections.Attempt
		retry      bool
		wait, took int64
	}{
		"waiting":      {projections.Attempt{AssignedAt: at(1)}, false, -1, -1},
		"running":      {projections.Attempt{AssignedAt: at(1), StartedPosition: 2, StartedAt: at(3)}, false, 2000, -1},
		"ended":        {projections.Attempt{AssignedAt: at(1), StartedPosition: 2, StartedAt: at(3), EndedPosition: 3, EndedAt: at(8)}, false, 2000, 5000},
		"retry":        {projections.Attempt{AssignedAt: at(1), StartedPosition: 2, StartedAt: at(3), EndedPosition: 3, EndedAt: at(8)}, true, -1, 5000},
		"voided":       {projections.Attempt{AssignedAt: at(1), EndedPosition: 3, EndedAt: at(8)}, false, -1, -1},
		"clock's jump": {projections.Attempt{AssignedAt: at(9), StartedPosition: 2, StartedAt: at(8), EndedPosition: 3, EndedAt: at(7)}, false, 0, 0},
	} {
		row := newAttemptRow(c.at, c.retry)
		if ms(row.QueueWaitMS) != c.wait || ms(row.DurationMS) != c.took || (row.EndedAt != nil) != (c.at.EndedPosition > 0) {
			t.Errorf("%s: waited %d, took %d, ended %v", name, ms(row.QueueWaitMS), ms(row.DurationMS), row.EndedAt)
		}
	}
	for want, row := range map[string]AttemptRow{
		"failed at step test, exit 3":  {Result: "failed", Step: "test", ExitCode: new(3)},
		"failed at step test, SIGKILL": {Result: "failed", Step: "test", Signal: "SIGKILL"},
		"canceled by ada: why":         {Result: "failed", Step: "test", CanceledBy: "ada", CanceledReason: "why"},
		"voided: stale":                {Result: "voided", Reason: "stale"},
		"deployed (a replay)":          {Result: "deployed", Cause: eventlog.TypeReplayed},
		"deployed":                     {Result: "deployed", CanceledBy: "ada"},
		"running":                      {Result: "running"},
	} {
		if got := row.Ended(); got != want {
			t.Errorf("%q, and not %q", got, want)
		}
	}
}

func TestStatusRow_IsOfTheMoment(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	d := &config.Deployment{Slug: "web", Enabled: true}
	p := projections.Deployment{
		Status: projections.StatusFailed, Failure: &projections.Failure{Step: "test", ExitCode: new(2)}, LastType: eventlog.TypeFailed,
		Live: &projections.Mark{Commit: commit(1), DeliveryID: "d1"}, Last: &projections.Mark{Commit: commit(2), DeliveryID: "d2"},
		Frozen: &projections.Hold{Actor: "ada", Reason: "why", Until: at.Add(time.Hour)}, Pinned: &projections.Hold{Commit: commit(1), Ended: 9},
	}
	whole := func(id string) string { return id }
	row := NewStatusRow(d, p, at)
	if row.Frozen == nil || row.Pinned != nil || len(row.Holds) != 1 || *row.Commit != commit(1) || row.Note(whole) != short(2)+" failed at step test, exit 2: why d2" {
		t.Errorf("%+v, %q", row, row.Note(whole))
	}
	if row = NewStatusRow(d, p, at.Add(time.Hour)); row.Frozen != nil || len(row.Holds) != 0 {
		t.Errorf("frozen for longer than it should: %+v", row)
	}
	p.LastType = eventlog.TypeVoided
	if got := NewStatusRow(d, p, at).Note(whole); got != "failed at step test, exit 2: log --deployment web --type failed" {
		t.Errorf("%q", got)
	}
	if row = NewStatusRow(d, projections.Deployment{}, at); row.Status != "never" || row.Commit != nil || row.LastDeployed(whole) != "nothing was deployed yet" {
		t.Errorf("%+v", row)
	}
	d.Enabled = false
	if got := NewStatusRow(d, p, at).Status; got != "disabled" {
		t.Error(got)
	}
}

// tree is a working tree.
type tree struct {
	head, unfinished string
	err              error
}

func (r tree) Head(context.Context) (string, error) { return r.head, r.err }
func (r tree) Unfinished() (string, error)          { return r.unfinished, nil }

func TestHeldElse_OnlyAfterARunThatDidNotEndWell(t *testing.T) {
	t.Parallel()
	live, failure := &projections.Mark{Commit: commit(1)}, &projections.Failure{}
	for name, c := range map[string]struct {
		now  projections.Deployment
		tree tree
		want string
	}{
		"deployed":               {projections.Deployment{Live: live, LastType: eventlog.TypeDeployed}, tree{head: commit(2)}, ""},
		"running":                {projections.Deployment{Live: live, Failure: failure, Running: &projections.Mark{}}, tree{head: commit(2)}, ""},
		"failed before checkout": {projections.Deployment{Live: live, Failure: failure}, tree{head: commit(1)}, ""},
		"failed after it":        {projections.Deployment{Live: live, Failure: failure}, tree{head: commit(2)}, "path holds commit " + short(2)},
		"interrupted":            {projections.Deployment{Live: live, LastType: eventlog.TypeInterrupted}, tree{head: commit(2)}, "path holds commit " + short(2)},
		"the first":              {projections.Deployment{Failure: failure}, tree{}, ""},
		"removed":                {projections.Deployment{Live: live, Failure: failure}, tree{}, "path holds no checkout"},
		"in the checkout": {projections.Deployment{Live: live, Failure: failure}, tree{head: commit(1), unfinished: commit(2)},
			"path holds files of commits " + short(1) + " and " + short(2) + ": a checkout did not end"},
		"in the first checkout": {projections.Deployment{Failure: failure}, tree{unfinished: commit(2)}, "path holds files of commit " + short(2) + ": its checkout did not end"},
		"unreadable":            {projections.Deployment{Live: live, Failure: failure}, tree{head: commit(1), err: errors.New("a\nb")}, "cannot read what path holds: a; b"},
	} {
		s := Source{Tree: func(*config.Deployment) Tree { return c.tree }}
		got := ""
		if h := s.HeldElse(t.Context(), &config.Deployment{Path: "/srv/web"}, c.now); h != nil {
			got = h.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, and not %q", name, got, c.want)
		}
		for _, handler := range []string{config.HandlerNginx, config.HandlerSelf} {
			if h := s.HeldElse(t.Context(), &config.Deployment{Path: "/srv/web", Handler: handler}, c.now); h != nil {
				t.Errorf("%s, to %s: %s", name, handler, h)
			}
		}
	}
}

func TestDurations_AreTheMedian(t *testing.T) {
	t.Parallel()
	d := Durations{}
	if d.Usual("web", "test") != 0 {
		t.Error("a step that never ran has a usual time")
	}
	for _, ms := range []int64{900, 10, 20} {
		for _, e := range history(t, eventlog.Deployed{Steps: []eventlog.Step{{Name: "test", DurationMS: ms}}}, failed) {
			if err := d.Add(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := d.Usual("web", "test"); got != 20 || d.Usual("api", "test") != 0 {
		t.Error(got)
	}
}

func TestLastVerify_OfAFileThatIsMissingOrBroken(t *testing.T) {
	t.Parallel()
	cfg := &config.Config{StateDir: t.TempDir()}
	if v, err := LastVerify(cfg); v != nil || err != nil {
		t.Fatal(v, err)
	}
	for text, want := range map[string][]string{"{": nil, `{"breaches":["log: a row","queue: b","log: c"]}`: {"log: a row", "log: c"}} {
		if err := os.WriteFile(VerifiedPath(cfg), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := LastVerify(cfg)
		if (err == nil) != (want != nil) || v != nil && !slices.Equal(v.OfLog(), want) {
			t.Errorf("%s: %+v, %v", text, v, err)
		}
	}
}

// newSource is a log that answers are read from.
func newSource(t *testing.T) Source {
	t.Helper()
	pool := pgtest.Migrated(t)
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	t.Cleanup(log.Close)
	return Source{
		Config:   &config.Config{Instance: "test", StateDir: t.TempDir(), Deployments: map[string]*config.Deployment{"web": {Slug: "web"}}},
		Pool:     pool,
		Log:      log,
		Obstacle: func(context.Context, string) string { return "no worker runs" },
	}
}

func (s Source) receive(t *testing.T, instance, id string, n int) {
	t.Helper()
	r := came
	r.Commit, r.PayloadDigest = commit(n), strings.Repeat("a", 64)
	group := eventlog.Group{Transitions: []eventlog.Transition{{Instance: instance, DeliveryID: id, Attempt: 1, Actor: "ada", Data: r}}}
	if _, err := s.Log.Append(t.Context(), group); err != nil {
		t.Fatal(err)
	}
}

func TestDeliveryID_IsAUniqueBeginning(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	for i, id := range []string{"abcdef-1", "abcdef-2", "ghijkl-1", "xy"} {
		s.receive(t, "test", id, 0xabcdef0+i)
	}
	s.receive(t, "other", "ghijkl-2", 9)
	s.receive(t, "other", "only-there", 9)
	dir := s.Config.QueueDir(names.MainQueue)
	q, err := queue.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for _, id := range []string{"queued-1", "abcdef-3"} {
		if _, err := q.Put(t.Context(), id, func(w io.Writer) error { _, err := w.Write([]byte("{}")); return err }); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{"abcdef-1": "abcdef-1", "ghijkl": "ghijkl-1", "xy": "xy"} {
		if got, err := s.DeliveryID(t.Context(), text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, c := range map[string]struct {
		kind Kind
		what string
		hint string
	}{
		"abcdef":     {Ambiguous, "abcdef-3", "more characters"},
		"abcde":      {UnknownDelivery, "no delivery", "at least 6 characters"},
		"only-there": {UnknownDelivery, `instance "test" has no delivery`, "log --type received"},
		"queued-1":   {UnknownDelivery, "no delivery", "waits in the main queue to be routed: no worker runs"},
		"queued":     {UnknownDelivery, "no delivery", "waits in the main queue"},
	} {
		_, err := s.DeliveryID(t.Context(), text)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Kind != c.kind || !strings.Contains(err.Error(), c.what) || !strings.Contains(e.Hint, c.hint) || (e.Unrouted != nil) != strings.HasPrefix(text, "queued") {
			t.Errorf("%q: %v, %+v", text, err, e)
		}
	}
	if _, err := s.DeliveryOf(t.Context(), []string{"test", "other"}, "ghijkl"); err == nil || !strings.Contains(err.Error(), "ghijkl-2") {
		t.Errorf("of two instances: %v", err)
	}
}

func TestMeant_IsADeliveryBeforeACommit(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	hash := strings.Repeat("abcdef01", 5)
	r := came
	r.Commit, r.PayloadDigest = hash, strings.Repeat("a", 64)
	for _, id := range []string{"d-1", "d-2"} {
		group := eventlog.Group{Transitions: []eventlog.Transition{{Instance: "test", DeliveryID: id, Attempt: 1, Actor: "ada", Data: r}}}
		if _, err := s.Log.Append(t.Context(), group); err != nil {
			t.Fatal(err)
		}
	}
	for _, what := range []string{hash, hash[:8], strings.ToUpper(hash[:8])} {
		if id, carried, err := s.Meant(t.Context(), what); err != nil || id != "" || len(carried) != 2 {
			t.Errorf("%q: %q, %d, %v", what, id, len(carried), err)
		}
	}
	if _, _, err := s.Meant(t.Context(), "fedcba98"); err == nil || !strings.Contains(err.Error(), "no delivery that carried such a commit") {
		t.Error(err)
	}
	s.receive(t, "test", hash[:10], 3)
	if id, _, err := s.Meant(t.Context(), hash[:10]); err != nil || id != hash[:10] {
		t.Errorf("a delivery's whole ID: %q, %v", id, err)
	}
	if _, _, err := s.Meant(t.Context(), hash[:8]); err == nil || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("the beginning of a delivery's ID and of a commit: %v", err)
	}
}

func TestMoment_CountsWhatWasBefore(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	for i := range 3 {
		s.receive(t, "test", fmt.Sprint("d", i), i)
	}
	var times []time.Time
	for e, err := range s.Log.Find(t.Context(), eventlog.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, e.RecordedAt)
	}
	for _, c := range []struct {
		m    Moment
		want int
	}{
		{Moment{Set: true}, 0}, {Moment{Position: 1, Set: true}, 1}, {Moment{Position: 3, Set: true}, 3},
		{Moment{Time: times[0], Set: true}, 0}, {Moment{Time: times[2].Add(time.Second), Set: true}, 3},
	} {
		state, err := c.m.fold(t.Context(), s.Log, "test")
		if err != nil {
			t.Fatal(c.m, err)
		}
		if got := len(state.Deliveries("test")); got != c.want {
			t.Errorf("at %s there are %d, and not %d", c.m, got, c.want)
		}
	}
	if _, err := (Moment{Position: 4, Set: true}).fold(t.Context(), s.Log, "test"); err == nil || !strings.Contains(err.Error(), "the log ends at position 3") {
		t.Error(err)
	}
}

func TestMoment_HasTheFreezeOfAllWhereNothingWasDeployed(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	group := eventlog.Group{Transitions: []eventlog.Transition{{Instance: "test", DeliveryID: "f1", Attempt: 1, Actor: "ada", Data: eventlog.Frozen{Reason: "the finals"}}}}
	if _, err := s.Log.Append(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	at := Moment{Position: 1, Set: true}
	known, err := s.Deployments(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := s.Status(t.Context(), []string{"web"}, known, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].Status != "disabled" || len(rows[0].Holds) != 1 || !strings.Contains(rows[0].Holds[0], "by ada: the finals") {
		t.Errorf("it was %+v", rows)
	}
}

func TestQueueEntries_AlsoOfTheQuarantine(t *testing.T) {
	t.Parallel()
	cfg := &config.Config{StateDir: t.TempDir()}
	if rows, err := QueueEntries(cfg, "web"); err != nil || len(rows) > 0 {
		t.Errorf("of a queue that is not there yet: %v, %v", rows, err)
	}
	dir := filepath.Join(cfg.QueueDir("web"), queue.QuarantineDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	name := "01ARZ3NDEKTSV4RRFFQ69G5FAV_d1.json"
	for file, text := range map[string]string{name: "{", name + ".reason": "it is broken\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := QueueEntries(cfg, "web")
	if err != nil || len(rows) != 1 || rows[0].DeliveryID != "d1" || rows[0].Why("") != "is in quarantine: it is broken" {
		t.Errorf("%+v, %v", rows, err)
	}
}
