package router

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// A push that comes by two hooks is deployed once.
func TestDuplicates(t *testing.T) {
	log, _ := openLog(t)
	from, to, another := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40)
	moved := func(id, before, after string) delivery.Delivery {
		d := push(strings.Replace(body("refs/heads/main", after, "octo/app"), zeros, before, 1))
		d.ID = id
		return d
	}
	end := func(data eventlog.Data) func(string) []eventlog.Transition {
		return func(slug string) []eventlog.Transition {
			return []eventlog.Transition{{Deployment: slug, Data: eventlog.Started{Commit: to}}, {Deployment: slug, Data: data}}
		}
	}
	deployed, failed := end(eventlog.Deployed{Commit: to}), end(eventlog.Failed{Commit: to, Step: "build"})
	changed := func(change func(d *delivery.Delivery)) delivery.Delivery {
		d := moved("second", from, to)
		change(&d)
		return d
	}
	found := func(id, tip string) delivery.Delivery {
		return delivery.Delivery{
			ID: id, Event: "push", Source: "recovery", Actor: "recovery", ReceivedAt: moved("", from, to).ReceivedAt,
			Body: fmt.Appendf(nil, `{"ref":"refs/heads/main","after":%q,"repository":{"full_name":"octo/app"},"deployments":["docs","web"]}`, tip),
		}
	}
	for name, test := range map[string]struct {
		first  delivery.Delivery
		became []eventlog.Transition
		// between are routed before second is.
		between []delivery.Delivery
		second  delivery.Delivery
		want    []string
	}{
		"waits":         {want: []string{"voided duplicate first"}},
		"is live":       {became: slices.Concat(deployed("docs"), deployed("web")), want: []string{"voided duplicate first"}},
		"failed":        {became: slices.Concat(failed("docs"), failed("web")), want: []string{"forwarded docs", "forwarded web"}},
		"failed at one": {became: slices.Concat(deployed("docs"), failed("web")), want: []string{"forwarded web"}},
		"in other case": {second: changed(func(d *delivery.Delivery) {
			d.Body = []byte(strings.Replace(string(d.Body), "octo/app", "Octo/App", 1))
		}), want: []string{"voided duplicate first"}},
		"came before it": {second: changed(func(d *delivery.Delivery) { d.ReceivedAt = d.ReceivedAt.Add(-9 * time.Minute) }), want: []string{"voided duplicate first"}},
		"came late":      {second: changed(func(d *delivery.Delivery) { d.ReceivedAt = d.ReceivedAt.Add(11 * time.Minute) }), want: []string{"forwarded docs", "forwarded web"}},
		"another before": {second: moved("second", another, to), want: []string{"forwarded docs", "forwarded web"}},
		"no before":      {second: changed(func(d *delivery.Delivery) { d.Body = []byte(strings.Replace(string(d.Body), `"before"`, `"was"`, 1)) }), want: []string{"forwarded docs", "forwarded web"}},
		"moved back":     {between: []delivery.Delivery{moved("back", to, from)}, want: []string{"forwarded docs", "forwarded web"}},
		"pushed on":      {between: []delivery.Delivery{moved("on", to, another)}, want: []string{"voided duplicate first"}},
		"a third":        {between: []delivery.Delivery{moved("twice", from, to)}, want: []string{"voided duplicate first"}},
		"a new branch":   {first: moved("first", zeros, to), second: moved("second", zeros, to), want: []string{"voided duplicate first"}},
		"a branch again": {
			first: moved("first", zeros, to), between: []delivery.Delivery{moved("gone", to, zeros)}, second: moved("second", zeros, to),
			want: []string{"forwarded docs", "forwarded web"},
		},
		"found, then sent":           {first: found("first", to), want: []string{"voided duplicate first"}},
		"found hours before":         {first: found("first", to), second: changed(func(d *delivery.Delivery) { d.ReceivedAt = d.ReceivedAt.Add(5 * time.Hour) }), want: []string{"voided duplicate first"}},
		"found, failed, then sent":   {first: found("first", to), became: slices.Concat(failed("docs"), failed("web")), want: []string{"forwarded docs", "forwarded web"}},
		"found, moved back and sent": {first: found("first", to), between: []delivery.Delivery{moved("back", to, from)}, want: []string{"forwarded docs", "forwarded web"}},
		"sent, then found":           {second: found("second", to), want: []string{"voided duplicate first"}},
		"sent, failed, then found":   {became: slices.Concat(failed("docs"), failed("web")), second: found("second", to), want: []string{"voided duplicate first"}},
		"found twice":                {first: found("first", to), second: found("second", to), want: []string{"voided duplicate first"}},
		"found another":              {first: found("first", to), second: found("second", another), want: []string{"forwarded docs", "forwarded web"}},
		"the one that led to it, twice": {
			between: []delivery.Delivery{moved("on", to, another), moved("again", from, to)}, second: moved("second", to, another), want: []string{"voided duplicate on"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := openQueue(t)
			defer start(t, q, Options{Instance: name, Log: log})()
			if test.first.ID == "" {
				test.first = moved("first", from, to)
			}
			if test.second.ID == "" {
				test.second = moved("second", from, to)
			}
			put(t, q, test.first)
			waitEmpty(t, q)
			for i := range test.became {
				test.became[i].Instance, test.became[i].DeliveryID, test.became[i].Attempt = name, "first", 1
			}
			if len(test.became) > 0 {
				if _, err := log.Append(context.Background(), eventlog.Group{Transitions: test.became}); err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range append(test.between, test.second) {
				put(t, q, d)
			}
			waitEmpty(t, q)
			var got []string
			for _, e := range events(t, log, eventlog.Filter{Instance: name, DeliveryID: "second"})[1:] {
				data, err := e.Decode()
				if err != nil {
					t.Fatal(err)
				}
				line := fmt.Sprint(e.Type, " ", e.DeploymentSlug())
				if v, ok := data.(eventlog.Voided); ok {
					line = fmt.Sprint("voided ", v.Reason, " ", v.SupersededBy)
					if !strings.Contains(v.Detail, "delivery "+v.SupersededBy) {
						t.Errorf("detail %q", v.Detail)
					}
				}
				got = append(got, line)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Both come in the same batch.
func TestDuplicatesAtOnce(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	for i := range 5 {
		d := push(body("refs/heads/main", sha, "octo/app"))
		d.ID = fmt.Sprint("d-", i)
		if i == 2 {
			d.Source, d.HookID, d.Body = "recovery", "", []byte(strings.Replace(string(d.Body), `"before"`, `"deployments":["docs","web"],"was"`, 1))
		}
		put(t, q, d)
	}
	defer start(t, q, Options{Log: log})()
	waitEmpty(t, q)
	voided := events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeVoided}})
	forwarded := events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeForwarded}})
	if len(voided) != 4 || len(forwarded) != 2 || forwarded[0].DeliveryID != "d-0" {
		t.Errorf("%d voided, forwarded: %q", len(voided), summary(forwarded))
	}
}

// A delivery that another router has recorded since it was looked up is no
// duplicate of itself.
func TestTwins_LeaveOutTheDeliveryItself(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	d := push(body("refs/heads/main", sha, "octo/app"))
	d.ID = "itself"
	put(t, q, d)
	defer start(t, q, Options{Log: log})()
	waitEmpty(t, q)
	key, ok := Decide(d, rules).key()
	if !ok {
		t.Fatal("the push has no key")
	}
	r := New(Options{Instance: "test", Log: log, Queue: &crashingQueue{}})
	batch := []work{{delivery: d, decision: Decide(d, rules)}}
	if err := r.ask(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	twins, err := r.twins(t.Context(), batch[0], key)
	if err != nil || len(twins) != 0 {
		t.Errorf("%d twins, %v", len(twins), err)
	}
}

// What GitHub sends again because it was asked for comes by recovery, and is a push like
// any other for the rest.
func TestRouter_SaysOfWhatWasAskedForThatItWasRecovered(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	d := push(body("refs/heads/main", sha, "octo/app"))
	d.ID = "asked"
	put(t, q, d)
	defer start(t, q, Options{Log: log, Asked: func(id string) bool { return id == "asked" }})()
	waitEmpty(t, q)
	got := events(t, log, eventlog.Filter{DeliveryID: "asked"})
	data, err := got[0].Decode()
	if err != nil {
		t.Fatal(err)
	}
	if r := data.(eventlog.Received); r.Source != eventlog.SourceRecovery || r.HookID != "99" || got[0].Actor != "sam" || len(got) != 3 {
		t.Errorf("%+v by %s, then %q", r, got[0].Actor, summary(got[1:]))
	}
}
