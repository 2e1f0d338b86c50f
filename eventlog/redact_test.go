package eventlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// bodied is a group of one event that brings a body.
func bodied(instance, delivery string, attempt int, salt string) Group {
	p := payload(salt, "body of "+delivery)
	p.ContentType = "application/json"
	tr := Transition{Instance: instance, DeliveryID: delivery, Attempt: attempt, Actor: "octocat"}
	if attempt == 0 {
		tr.Data = Received{Event: "push", PayloadDigest: p.Digest, PayloadSize: int64(len(p.Body)), ContentType: p.ContentType}
	} else {
		tr.Data = Redelivered{Action: ActionIgnored, PayloadDigest: p.Digest, PayloadSize: int64(len(p.Body)), ContentType: p.ContentType}
	}
	return Group{Transitions: []Transition{tr}, Payload: p}
}

func redaction(instance, delivery string, digests ...string) Group {
	return group(Transition{Instance: instance, DeliveryID: delivery, Attempt: 1, Actor: "ann", Data: Redacted{Reason: "a secret", PayloadDigests: digests}})
}

// Bodies come and go as a plain count says, whatever order the events come in,
// also within one batch; and the log stays sound.
func TestRedactionsAgainstAModel(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	var stored, gone int64
	checks := 0
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		checks++
		instance := fmt.Sprint("instance-", checks)
		type state struct {
			digests  []string
			again    int
			redacted bool
		}
		deliveries := map[string]*state{}
		for range rapid.IntRange(1, 5).Draw(t, "batches") {
			var groups []Group
			var want []error
			for range rapid.IntRange(1, 6).Draw(t, "groups") {
				id := rapid.SampledFrom([]string{"d1", "d2", "d3"}).Draw(t, "delivery")
				d := deliveries[id]
				switch {
				case d == nil:
					d = &state{}
					deliveries[id] = d
					g := bodied(instance, id, 0, instance+id)
					groups, want = append(groups, g), append(want, nil)
					d.digests, stored = append(d.digests, g.Payload.Digest), stored+1
				case rapid.Bool().Draw(t, "redelivered"):
					g := bodied(instance, id, d.again+1, fmt.Sprint(instance, id, d.again))
					groups = append(groups, g)
					if d.redacted {
						want = append(want, ErrRedacted)
						break
					}
					want = append(want, nil)
					d.again++
					d.digests, stored = append(d.digests, g.Payload.Digest), stored+1
				case rapid.Bool().Draw(t, "incomplete") && !d.redacted:
					digests := d.digests[:len(d.digests)-1]
					if rapid.Bool().Draw(t, "of others") {
						digests = append(slices.Clone(d.digests), payload("of others", "x").Digest)
					}
					groups, want = append(groups, redaction(instance, id, digests...)), append(want, ErrOtherBodies)
				default: // a repetition is nothing new
					groups, want = append(groups, redaction(instance, id, d.digests...)), append(want, nil)
					if !d.redacted {
						d.redacted = true
						n := int64(len(d.digests))
						stored, gone = stored-n, gone+n
					}
				}
			}
			results, err := l.AppendAll(ctx, groups)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range results {
				if !errors.Is(r.Err, want[i]) || (r.Err == nil) != (want[i] == nil) {
					t.Fatalf("group %d: %v, want %v", i, r.Err, want[i])
				}
			}
		}
		v, err := l.Verify(ctx, VerifyOptions{})
		if err != nil || len(v.Faults) > 0 || v.Bodies != stored || v.Redacted != gone {
			t.Fatalf("verified %d bodies of %d, %d redacted of %d, %v, %v", v.Bodies, stored, v.Redacted, gone, v.Faults, err)
		}
	})
}

// A redelivery and a redaction at the same moment: in either order, no body
// is left of a delivery that was redacted.
func TestRedactionRacesWithRedelivery(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	logs := []*Log{openLog(t, pool), openLog(t, pool)}
	for n := range 30 {
		id := fmt.Sprint("d", n)
		first, second := bodied("test", id, 0, "first of "+id), bodied("test", id, 1, "second of "+id)
		mustAppend(t, logs[0], first)
		var wg sync.WaitGroup
		var redactErr, againErr error
		wg.Go(func() {
			_, redactErr = logs[0].Append(testContext(t), redaction("test", id, first.Payload.Digest))
		})
		wg.Go(func() { _, againErr = logs[1].Append(testContext(t), second) })
		wg.Wait()
		if (redactErr == nil) == (againErr == nil) || redactErr != nil && !errors.Is(redactErr, ErrOtherBodies) || againErr != nil && !errors.Is(againErr, ErrRedacted) {
			t.Fatalf("redaction: %v; redelivery: %v", redactErr, againErr)
		}
	}
	sound(t, logs[0], true)
}

// What is tried around the command is refused by the database.
func TestRedaction_OnlyItsEventDeletesBodies(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	mine, theirs := bodied("test", "mine", 0, "a"), bodied("test", "theirs", 0, "b")
	mustAppend(t, l, mine)
	mustAppend(t, l, theirs)
	if _, err := l.Append(testContext(t), redaction("test", "mine", mine.Payload.Digest, theirs.Payload.Digest)); !errors.Is(err, ErrOtherBodies) {
		t.Errorf("redaction of another delivery's body: %v", err)
	}
	if _, err := l.Append(testContext(t), redaction("other", "mine", mine.Payload.Digest)); !errors.Is(err, ErrOtherBodies) {
		t.Errorf("redaction by another instance: %v", err)
	}
	again := redaction("test", "mine", mine.Payload.Digest)
	again.Transitions[0].Attempt = 2
	if _, err := l.Append(testContext(t), again); err == nil {
		t.Error("a redaction with another attempt was taken")
	}
	admin := superuser(t, pool)
	for _, sql := range []string{"delete from payloads", "truncate payloads", "update payloads set body = ''"} {
		var pg *pgconn.PgError
		if _, err := admin.Exec(testContext(t), sql); !errors.As(err, &pg) || pg.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	mustAppend(t, l, redaction("test", "mine", mine.Payload.Digest))
	if _, err := l.Payload(testContext(t), mine.Payload.Digest); !errors.Is(err, ErrNoPayload) {
		t.Errorf("the body is still there: %v", err)
	}
	if _, err := l.Payload(testContext(t), theirs.Payload.Digest); err != nil {
		t.Errorf("the other body is gone: %v", err)
	}
	sound(t, l, true)
}

// The application's role may append a redaction of any delivery, but it cannot have
// one delete another delivery's body, however it says so.
func TestRedactionOfAnotherDeliverysBody(t *testing.T) {
	pool := migrate(t, pgtest.DSN(t))
	l := openLog(t, pool)
	theirs, mine := bodied("test", "theirs", 0, "b"), bodied("test", "mine", 0, "a")
	mustAppend(t, l, theirs)
	mustAppend(t, l, mine)
	victim := theirs.Payload.Digest
	event := func(typ Type, instance, delivery string, attempt int, data string) Event {
		return Event{Instance: instance, DeliveryID: delivery, Type: typ, Attempt: attempt, Actor: "eve", Data: []byte(strings.ReplaceAll(data, "DIGEST", victim))}
	}
	names := `{"v":1,"payload_digest":"DIGEST","payload_size":1,"content_type":"x"}`
	redacts := `{"v":1,"reason":"x","payload_digests":["DIGEST"]}`
	for name, events := range map[string][]Event{
		"named by nobody":        {event(TypeRedacted, "test", "mine", 1, redacts)},
		"named by it, too":       {event(TypeReceived, "test", "e1", 0, names), event(TypeRedacted, "test", "e1", 1, redacts)},
		"in a redelivery":        {event(TypeRedelivered, "test", "mine", 1, names), event(TypeRedacted, "test", "mine", 1, redacts)},
		"in another instance":    {event(TypeReceived, "other", "theirs", 0, names), event(TypeRedacted, "other", "theirs", 1, redacts)},
		"within another value":   {event(TypeReceived, "test", "e2", 0, `{"v":1,"x":{"payload_digest":"DIGEST"},"payload_digest":""}`), event(TypeRedacted, "test", "e2", 1, redacts)},
		"beside a NUL":           {event(TypeReceived, "test", "e3", 0, `{"v":1,"ref":"\u0000\ud800","payload_digest":"DIGEST"}`), event(TypeRedacted, "test", "e3", 1, redacts)},
		"only in the reason":     {event(TypeReceived, "test", "e4", 0, names), event(TypeRedacted, "test", "e4", 1, `{"v":1,"reason":["DIGEST"],"payload_digests":[]}`)},
		"spelled with an escape": {event(TypeReceived, "test", "e5", 0, names), event(TypeRedacted, "test", "e5", 1, `{"v":1,"payload_digests":["\u00`+hex.EncodeToString([]byte(victim[:1]))+victim[1:]+`"]}`)},
	} {
		for _, e := range events {
			var pg *pgconn.PgError
			if err := appendRaw(t, pool, e); err != nil && (!errors.As(err, &pg) || pg.Code != "22023" || e.Type != TypeRedacted) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, err := l.Payload(testContext(t), victim); err != nil {
			t.Fatalf("%s: the body is gone: %v", name, err)
		}
	}
	// All that does not keep its own delivery's redaction from deleting it.
	mustAppend(t, l, redaction("test", "theirs", victim))
	if _, err := l.Payload(testContext(t), victim); !errors.Is(err, ErrNoPayload) {
		t.Errorf("the body is still there: %v", err)
	}
}

// A body is what its event says of it, or it is not appended.
func TestAppendComparesBodyAndEvent(t *testing.T) {
	l := newLog(t)
	for name, change := range map[string]func(p *Payload, r *Received){
		"size":         func(_ *Payload, r *Received) { r.PayloadSize++ },
		"content type": func(p *Payload, _ *Received) { p.ContentType = "text/plain" },
		"salt": func(p *Payload, r *Received) {
			p.Salt, p.Body, r.PayloadSize = append(p.Salt, p.Body...), nil, 0
		},
	} {
		g := bodied("test", name, 0, "salt")
		r := g.Transitions[0].Data.(Received)
		change(g.Payload, &r)
		g.Transitions[0].Data = r
		if _, err := l.Append(testContext(t), g); err == nil {
			t.Errorf("a body of another %s was appended", name)
		}
	}
}
