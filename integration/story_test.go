package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// reader reads the log past the daemon, so that waiting for an event needs no
// process for each look.
type reader struct {
	pool *pgxpool.Pool
	log  *eventlog.Log
}

// open connects when it is asked first.
func (s *site) open() *eventlog.Log {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader != nil {
		return s.reader.log
	}
	cfg, err := pgxpool.ParseConfig(s.dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.AfterConnect = migrations.SetRole
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	log := eventlog.Open(pool, slog.New(slog.DiscardHandler))
	s.reader = &reader{pool: pool, log: log}
	s.t.Cleanup(func() {
		log.Close()
		pool.Close()
	})
	return log
}

// look reads the whole log; an error means that the database is away, or not
// migrated yet.
func (s *site) look() (story, error) {
	var all story
	for e, err := range s.open().Find(s.t.Context(), eventlog.Filter{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// events reads the whole log, which must be possible.
func (s *site) events() story {
	s.t.Helper()
	all, err := s.look()
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// until waits until the log is as done wants it, and returns it.
func (s *site) until(what string, done func(story) bool) story {
	s.t.Helper()
	var all story
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the log, while waiting for %s:\n%s", what, all)
		}
	}()
	await(s.t, what, func() bool {
		now, err := s.look()
		if err == nil {
			all = now
		}
		return err == nil && done(all)
	})
	return all
}

// ends waits until each of these deliveries has come to its end everywhere.
func (s *site) ends(ids ...string) story {
	s.t.Helper()
	return s.until(fmt.Sprintf("the end of %d deliveries", len(ids)), func(all story) bool {
		for _, id := range ids {
			if !all.of(id).ended() {
				return false
			}
		}
		return true
	})
}

// story is a part of the log, in order.
type story []eventlog.Event

func (all story) where(keep func(eventlog.Event) bool) story {
	var kept story
	for _, e := range all {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

func (all story) of(deliveryID string) story {
	return all.where(func(e eventlog.Event) bool { return e.DeliveryID == deliveryID })
}

func (all story) at(slug string) story {
	return all.where(func(e eventlog.Event) bool { return e.DeploymentSlug() == slug })
}

func (all story) type_(types ...eventlog.Type) story {
	return all.where(func(e eventlog.Event) bool { return slices.Contains(types, e.Type) })
}

// types is the story in words: "received forwarded started deployed".
func (all story) types() string {
	names := make([]string, len(all))
	for i, e := range all {
		names[i] = string(e.Type)
	}
	return strings.Join(names, " ")
}

func (all story) String() string {
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "%4d %-11s %s %s #%d %s\n", e.Position, e.Type, e.DeliveryID, e.DeploymentSlug(), e.Attempt, e.Data)
	}
	return b.String()
}

// ended says whether a delivery was decided, and each run that was ordered has
// come to its end.
func (all story) ended() bool {
	decided := false
	open := map[string]int{} // deployment to the attempt that is owed
	for _, e := range all {
		orders, err := e.Assignments()
		if err != nil {
			panic(err) // the program under test is of this very version
		}
		for _, o := range orders {
			decided = true
			open[o.Deployment] = max(open[o.Deployment], o.Attempt)
		}
		switch e.Type {
		case eventlog.TypeVoided, eventlog.TypeDeployed, eventlog.TypeFailed:
			decided = true
			if e.Attempt >= open[e.DeploymentSlug()] {
				delete(open, e.DeploymentSlug())
			}
		}
	}
	return decided && len(open) == 0
}

// data decodes an event's content as its type.
func data[T eventlog.Data](s *site, e eventlog.Event) T {
	s.t.Helper()
	d, err := e.Decode()
	if err != nil {
		s.t.Fatal(err)
	}
	typed, ok := d.(T)
	if !ok {
		s.t.Fatalf("position %d is %s, want %T", e.Position, e.Type, *new(T))
	}
	return typed
}

// only wants exactly one event and returns it.
func (s *site) only(what string, all story) eventlog.Event {
	s.t.Helper()
	if len(all) != 1 {
		s.t.Fatalf("%s: %d events, want one\n%s", what, len(all), all)
	}
	return all[0]
}

// accounted checks what must hold once everything has ended: each of the
// acknowledged deliveries was received exactly once, every ordered run has
// exactly one end, nothing runs, nothing waits, and verify agrees.
func (s *site) accounted(acknowledged ...string) {
	s.t.Helper()
	all := s.events()
	type run struct {
		delivery, deployment string
		attempt              int
	}
	received, entries := map[string]int{}, map[string]int64{}
	once := func(entry string, position int64) {
		if other, ok := entries[entry]; ok {
			s.t.Errorf("the file %s of the main queue is recorded twice, at positions %d and %d", entry, other, position)
		}
		entries[entry] = position
	}
	ordered, begun, over, ends := map[run]bool{}, map[run]int{}, map[run]int{}, map[run]int{}
	for i, e := range all {
		if e.Position != int64(i+1) {
			s.t.Fatalf("position %d follows %d", e.Position, i)
		}
		if e.Instance != s.instance {
			continue
		}
		r := run{e.DeliveryID, e.DeploymentSlug(), e.Attempt}
		orders, err := e.Assignments()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, o := range orders {
			ordered[run{e.DeliveryID, o.Deployment, o.Attempt}] = true
		}
		switch e.Type {
		case eventlog.TypeReceived:
			received[e.DeliveryID]++
			once(data[eventlog.Received](s, e).Entry, e.Position)
		case eventlog.TypeRedelivered:
			once(data[eventlog.Redelivered](s, e).Entry, e.Position)
		case eventlog.TypeStarted:
			begun[r]++
		case eventlog.TypeInterrupted:
			over[r]++
			if data[eventlog.Interrupted](s, e).Then == "retry" {
				ordered[run{r.delivery, r.deployment, r.attempt + 1}] = true
				delete(ordered, r)
			}
		case eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeVoided:
			if r.deployment != "" {
				ends[r]++
				over[r]++
			}
		}
	}
	for _, id := range acknowledged {
		if received[id] != 1 {
			s.t.Errorf("delivery %s was acknowledged and has %d received events", id, received[id])
		}
	}
	for id, n := range received {
		if n != 1 {
			s.t.Errorf("delivery %s has %d received events", id, n)
		}
	}
	for r := range ordered {
		if ends[r] != 1 {
			s.t.Errorf("%v has %d ends", r, ends[r])
		}
	}
	for r, n := range begun {
		if n != 1 || over[r] == 0 {
			s.t.Errorf("%v was started %d times and has %d ends or interruptions", r, n, over[r])
		}
	}
	for r := range ends {
		if !ordered[r] {
			s.t.Errorf("%v ended and nothing ordered it", r)
		}
	}
	s.verified()
	if s.t.Failed() {
		s.t.Logf("the log:\n%s", all)
	}
}

// verified asks the program itself, and looks into the queues, once what follows the
// last end has been done: the entry goes, and the read models come.
func (s *site) verified() {
	s.t.Helper()
	queues := append([]string{"main"}, s.slugs()...)
	await(s.t, "the queues to be empty", func() bool {
		return !slices.ContainsFunc(queues, func(name string) bool { return len(s.queued(name)) > 0 })
	})
	await(s.t, "status to say that nothing runs or waits", func() bool {
		for _, row := range s.status() {
			if row.Status == "running" || row.Status == "pending" || row.Pending != 0 {
				return false
			}
		}
		return true
	})
	var sum struct {
		Received, Voided, Finished, Pending int
		Breaches                            []string
	}
	r := s.command("verify", "--json")
	if err := json.Unmarshal([]byte(r.out), &sum); err != nil || r.code != 0 || sum.Pending != 0 || sum.Received != sum.Voided+sum.Finished {
		s.t.Errorf("verify: exit code %d, %v\n%s%s", r.code, err, r.out, r.stderr)
	}
	for _, name := range queues {
		if bad := s.queued(name + "/quarantine"); len(bad) > 0 {
			s.t.Errorf("queue %s has in quarantine %q", name, bad)
		}
	}
}

func (s *site) slugs() []string {
	var slugs []string
	for _, d := range s.deployments {
		slugs = append(slugs, d.slug)
	}
	return slugs
}

// statusRow is a line of status --json.
type statusRow struct {
	Slug, Status string
	Commit       *string
	DeliveryID   *string `json:"delivery_id"`
	Attempt      *int
	Pending      int
}

func (s *site) status() map[string]statusRow {
	s.t.Helper()
	rows := map[string]statusRow{}
	for line := range strings.Lines(s.must("status", "--json")) {
		var row statusRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		rows[row.Slug] = row
	}
	return rows
}

// live waits until status says that the deployment is live at the commit.
func (s *site) live(slug, commit string) {
	s.t.Helper()
	await(s.t, fmt.Sprintf("%s to be live at %s", slug, commit), func() bool {
		row := s.status()[slug]
		return row.Status == "live" && row.Commit != nil && *row.Commit == commit
	})
}
