package router

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// What comes behind a large push overtakes it, but for what is of its repository.
func TestRouter_LargeDeliveryHoldsUpItsRepositoryAlone(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	padded := func(id, repository string) delivery.Delivery {
		return named(id, strings.TrimSuffix(body("refs/heads/main", sha, repository), "}")+`,"commits":"`+strings.Repeat("x", 8<<10)+`"}`)
	}
	small := func(id, repository string) delivery.Delivery {
		return named(id, body("refs/heads/main", sha, repository))
	}
	for _, d := range []delivery.Delivery{
		small("before", "octo/app"), padded("large", "octo/app"), small("behind", "Octo/App"), small("other", "octo/api"),
		padded("large-too", "octo/mixed"), small("behind-too", "octo/mixed"), small("none", "octo/none"),
	} {
		put(t, q, d)
	}
	appended := make(chan struct{})
	slow := &faultyLog{Log: log, before: func(groups []eventlog.Group) ([]eventlog.Result, error, bool) {
		if groups[0].Transitions[0].DeliveryID == "large" {
			<-appended
		}
		return nil, nil, false
	}}
	defer start(t, q, Options{Log: slow, Large: 8 << 10})()
	routed := func() (ids []string) {
		for _, e := range events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeReceived}}) {
			ids = append(ids, e.DeliveryID)
		}
		return ids
	}
	overtook := []string{"before", "other", "none"}
	testkit.Wait(t, "the others are routed", func() bool { return len(routed()) == len(overtook) })
	if got := routed(); !slices.Equal(got, overtook) {
		t.Errorf("routed while the large one is appended: %q", got)
	}
	close(appended)
	waitEmpty(t, q)
	got := routed()
	for _, order := range [][2]string{{"large", "behind"}, {"large-too", "behind-too"}} {
		if at := slices.Index(got, order[0]); at < 0 || at > slices.Index(got, order[1]) {
			t.Errorf("%s before %s: %q", order[0], order[1], got)
		}
	}
}

func TestRepositoryOf(t *testing.T) {
	plain := body("refs/heads/main", sha, "Octo/App")
	form := func(body string) string { return url.Values{"payload": {body}}.Encode() }
	for body, want := range map[string]string{
		plain:                   "octo/app",
		form(plain):             "octo/app",
		form(plain) + "&more=1": "octo/app",
		`{"repository":{}}`:     "",
		`{"repository":"a/b"}`:  "",
		`{"ref":"a/b"}`:         "",
		`{"ref":`:               "",
		`["repository"]`:        "",
		"":                      "",
		"payload":               "",
		"payload=%7":            "",
		"payload=%zz":           "",
		`{"after":{"repository":{"full_name":"x/y"}},"repository":{"full_name":"a/b"}}`: "a/b",
	} {
		if got := repositoryOf(strings.NewReader(body)); got != want {
			t.Errorf("%q is of %q, want %q", body, got, want)
		}
	}
}
