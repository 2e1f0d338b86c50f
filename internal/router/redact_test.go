package router

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// redact redacts a delivery as the command does.
func redact(t testing.TB, log *eventlog.Log, id string) {
	t.Helper()
	var digests []string
	for _, e := range events(t, log, eventlog.Filter{DeliveryID: id}) {
		data, err := e.Decode()
		if err != nil {
			t.Fatal(err)
		}
		switch d := data.(type) {
		case eventlog.Received:
			digests = append(digests, d.PayloadDigest)
		case eventlog.Redelivered:
			if d.PayloadDigest != "" {
				digests = append(digests, d.PayloadDigest)
			}
		}
	}
	_, err := log.Append(context.Background(), eventlog.Group{Transitions: []eventlog.Transition{{
		Instance: "test", DeliveryID: id, Attempt: 1, Actor: "ann", Data: eventlog.Redacted{Reason: "a secret", PayloadDigests: digests},
	}}})
	if err != nil {
		t.Fatal(err)
	}
}

func noBodies(t *testing.T, log *eventlog.Log, redacted int64) {
	t.Helper()
	v, err := log.Verify(context.Background(), eventlog.VerifyOptions{})
	if err != nil || len(v.Faults) > 0 {
		t.Fatalf("verify: %v, %v", v.Faults, err)
	}
	if v.Bodies != 0 || v.Redacted != redacted {
		t.Errorf("%d bodies are stored, %d redacted; want none, and %d", v.Bodies, v.Redacted, redacted)
	}
}

// Whatever comes in under the ID of a delivery that was redacted, its body is
// not stored; what came in before is named by its event, and so goes with it.
func TestRedaction_NoBodyComesBack(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	stop := start(t, q, Options{Log: log})
	defer stop()
	for _, content := range []string{body("refs/heads/main", sha, "octo/app"), body("refs/heads/dev", sha, "octo/app") + " "} {
		put(t, q, named("d", content))
		waitEmpty(t, q)
	}
	redact(t, log, "d")
	for _, content := range []string{body("refs/heads/main", sha, "octo/app"), body("refs/heads/dev", sha, "octo/app") + " ", "payload=secret"} {
		put(t, q, named("d", content))
		waitEmpty(t, q)
	}
	noBodies(t, log, 2)
	again := events(t, log, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeRedelivered}})
	if len(again) != 4 || !strings.Contains(string(again[0].Data), "payload_digest") || strings.Contains(string(again[3].Data), "payload_digest") {
		t.Errorf("redeliveries are %+v", again)
	}
}

// The redaction comes between the router's reading and its append.
func TestRedactionOvertakesARedelivery(t *testing.T) {
	log, _ := openLog(t)
	q := openQueue(t)
	var once sync.Once
	l := &faultyLog{Log: log, before: func(groups []eventlog.Group) ([]eventlog.Result, error, bool) {
		if _, ok := groups[0].Transitions[0].Data.(eventlog.Redelivered); ok {
			once.Do(func() { redact(t, log, "d") })
		}
		return nil, nil, false
	}}
	stop := start(t, q, Options{Log: l})
	defer stop()
	put(t, q, named("d", body("refs/heads/main", sha, "octo/app")))
	waitEmpty(t, q)
	put(t, q, named("d", body("refs/heads/dev", sha, "octo/app")+" "))
	waitEmpty(t, q)
	noBodies(t, log, 1)
	all := events(t, log, eventlog.Filter{})
	if last := all[len(all)-1]; last.Type != eventlog.TypeRedelivered {
		t.Errorf("the redelivery is not recorded: %q", summary(all))
	}
	if quarantined, err := q.Quarantined(); err != nil || len(quarantined) > 0 {
		t.Errorf("in quarantine: %v, %v", quarantined, err)
	}
}
