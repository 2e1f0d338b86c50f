package eventlog

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// The questions that people ask of a long log are answered from an index.
func TestQuestionsUseTheirIndex(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	super := superuser(t, pool)
	do := func(sql string) {
		t.Helper()
		if _, err := super.Exec(testContext(t), sql); err != nil {
			t.Fatal(err)
		}
	}
	do(`insert into events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
		select n, lpad(n::text, 26, '0'), 'prod', 'd' || n / 4, (array['received', 'forwarded', 'started', 'deployed'])[n % 4 + 1],
			case when n % 4 > 0 then 'app' || n / 4 % 50 end, 1, 'me', now(),
			format('{"v":1,"text":%s,"commit":"%s"}', to_json(E'\\\\"commit":"0000000'::text), encode(sha256((n / 4)::text::bytea), 'hex'))::json
		from generate_series(4, 40003) n`)
	do(`insert into events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
		select n, lpad(n::text, 26, '0'), 'prod', 'f' || n, 'failed', 'other', 7, 'me', now(), '{"v":1}' from generate_series(40004, 40006) n`)
	do("analyze events")
	var commit string
	if err := super.QueryRow(testContext(t), "select encode(sha256('77'), 'hex')").Scan(&commit); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		filter      Filter
		index       string
		first, rows int
	}{
		"a commit":                       {Filter{Instance: "prod", Types: []Type{TypeReceived}, Commit: commit}, "events_commit", 308, 1},
		"a whole commit":                 {Filter{Instance: "prod", Types: []Type{TypeReceived}, Commit: commit, Whole: true}, "events_commit", 308, 1},
		"the beginning of a commit":      {Filter{Instance: "prod", Types: []Type{TypeReceived}, Commit: commit[:9]}, "events_commit", 308, 1},
		"no commit":                      {Filter{Types: []Type{TypeReceived}, Commit: "0000000"}, "events_commit", 0, 0},
		"the beginning of a delivery":    {Filter{Instance: "prod", Types: []Type{TypeReceived}, DeliveryPrefix: "d123"}, "events_delivery", 492, 11},
		"no delivery":                    {Filter{Instance: "prod", Types: []Type{TypeReceived}, DeliveryPrefix: "e"}, "events_delivery", 0, 0},
		"a rare type":                    {Filter{Types: []Type{TypeFailed}}, "events_rare", 40004, 3},
		"the newest of rare types":       {Filter{Types: []Type{TypeFailed, TypeInterrupted}, Limit: 2, Newest: true}, "events_rare", 40005, 2},
		"a rare type that has no event":  {Filter{Types: []Type{TypeInterrupted}, Limit: 2}, "events_rare", 0, 0},
		"a deployment":                   {Filter{Deployment: "app7"}, "events_deployment", 29, 600},
		"the newest of a deployment":     {Filter{Deployment: "app7", Limit: 5, Newest: true}, "events_deployment", 39630, 5},
		"a deployment after a while":     {Filter{Deployment: "app7", After: 39000}, "events_deployment", 39029, 15},
		"a type of a deployment":         {Filter{Deployment: "app7", Types: []Type{TypeDeployed}, After: 39000, Limit: 5}, "events_deployment", 39031, 5},
		"a deployment that has no event": {Filter{Deployment: "none", Limit: 1, Newest: true}, "events_deployment", 0, 0},
	} {
		sql, args := c.filter.query()
		if plan := explain(t, pool, sql, args...); !strings.Contains(plan, c.index) {
			t.Errorf("%s: the plan is\n%s", name, plan)
		}
		var found []int64
		for e, err := range openLog(t, pool).Find(testContext(t), c.filter) {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, e.Position)
		}
		if len(found) != c.rows || len(found) > 0 && found[0] != int64(c.first) {
			t.Errorf("%s: found %s", name, fmt.Sprint(found[:min(len(found), 3)], " of ", len(found)))
		}
	}
	if plan := explain(t, pool, sqlInstances); !strings.Contains(plan, "events_delivery") || strings.Contains(plan, "Seq Scan") {
		t.Errorf("the instances: the plan is\n%s", plan)
	}
}

// Positions rise with time, so a time is looked for by halves: what is read of a log
// that is ten times as long is a few rows more.
func TestFind_HalvesTheLogByTime(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	super := superuser(t, pool)
	log := openLog(t, pool)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var steps []int
	last := 0
	for _, n := range []int{1000, 10_000} {
		for _, sql := range []string{
			fmt.Sprintf(`insert into events (position, id, instance, delivery_id, type, attempt, actor, recorded_at, data)
				select n, lpad(n::text, 26, '0'), 'prod', 'd' || n, 'received', 1, 'me', '2026-01-01Z'::timestamptz + n / 10 * interval '1 second', '{"v":1}'
				from generate_series(%d, %d) n`, last+1, n),
			fmt.Sprintf("update log_head set position = %d, last_id = lpad('%d', 26, '0')", n, n), "analyze events",
		} {
			if _, err := super.Exec(testContext(t), sql); err != nil {
				t.Fatal(err)
			}
		}
		last = n
		for _, second := range []int{-5, 0, 1, 37, n / 10, n} {
			first, want := int64(0), int64(max(1, 10*second))
			if want > int64(n) {
				want = 0
			}
			for e, err := range log.Find(testContext(t), Filter{Since: begin.Add(time.Duration(second) * time.Second), Limit: 1}) {
				if err != nil {
					t.Fatal(err)
				}
				first = e.Position
			}
			if first != want {
				t.Errorf("of %d events, the first since second %d is %d, not %d", n, second, first, want)
			}
			newest, want := int64(0), min(int64(n), 10*int64(second)-1)
			for e, err := range log.Find(testContext(t), Filter{Until: begin.Add(time.Duration(second) * time.Second), Limit: 1, Newest: true}) {
				if err != nil {
					t.Fatal(err)
				}
				newest = e.Position
			}
			if newest != max(0, want) {
				t.Errorf("of %d events, the last before second %d is %d, not %d", n, second, newest, want)
			}
		}
		var read int
		q := strings.Replace(sqlAround, "select max(low), min(high)", "select count(*)", 1)
		if err := pool.QueryRow(testContext(t), q, begin.Add(time.Minute)).Scan(&read); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, read)
	}
	if steps[1] > steps[0]+6 {
		t.Errorf("it reads %d rows of 1,000 events, and %d of 10,000", steps[0], steps[1])
	}
}

func explain(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	rows, err := pool.Query(testContext(t), "explain "+sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "\n")
}
