package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// receive checks a webhook in this order: method, size, signature over the raw
// bytes, and only then anything that the sender wrote. Nothing is parsed or kept for a
// sender that has not shown that it knows the secret; the delivery ID that it
// claims is logged as that.
//
// answered says that the request has had its answer already.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, start time.Time) (rec record, answered bool) {
	if r.Method != http.MethodPost {
		a := refuse(http.StatusMethodNotAllowed, "method_not_allowed", "GitHub posts here; only POST is answered")
		a.allow, a.hangUp = http.MethodPost, r.ContentLength != 0
		return record{answer: a}, false
	}
	if r.ContentLength > delivery.MaxBody {
		return unread(tooLarge()), false
	}
	claimed, failure := claimedSignature(r.Header)
	if failure != nil {
		return unread(*failure), false
	}
	rc := http.NewResponseController(w)
	lease := h.memory.lease(r.ContentLength, time.Now().Add(h.bodyTimeout), func(at time.Time) {
		_ = rc.SetReadDeadline(at) // a recorder has no deadlines
	})
	defer lease.release()
	var b body
	defer b.release()
	check := newSigner(h.secrets)
	if err := b.readFrom(r.Context(), r.Body, lease, check); err != nil {
		rec := unread(readFailure(err))
		rec.bytes, rec.err = b.size, err
		return rec, false
	}
	if !check.matches(claimed) {
		a := refuse(http.StatusUnauthorized, "signature_mismatch",
			"X-Hub-Signature-256 does not fit the body; the secret of this webhook on GitHub is not the one that the deployer has")
		return record{answer: a, bytes: b.size}, false
	}
	return h.enqueue(w, r, &b, start)
}

// enqueue handles a body whose signature is good.
func (h *Handler) enqueue(w http.ResponseWriter, r *http.Request, b *body, start time.Time) (rec record, answered bool) {
	rec.bytes = b.size
	d, failure := h.describe(r, b)
	if failure != nil {
		rec.answer = *failure
		return rec, false
	}
	rec.delivery, rec.event = d.ID, d.Event
	notStored := func(err error) record {
		rec := rec
		rec.answer = refuse(http.StatusServiceUnavailable, "queue_unavailable",
			"the delivery could not be stored in time and was not accepted; redeliver it once the deployer's disk has been seen to (its log says more)")
		rec.err, rec.level = err, slog.LevelError
		return rec
	}
	// What came in whole and signed is worth keeping, even when the sender did not
	// wait for the answer. (The time limit on the body is over by now: net/http
	// lifts it at the body's end.)
	entry, err := h.put(context.WithoutCancel(r.Context()), d, b.chunks, func(err error) {
		late := notStored(err)
		late.hangUp = true // the disk must not take the connection, too
		h.answer(w, r, late, start)
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
	})
	if err != nil {
		return notStored(err), errors.Is(err, errAnswered)
	}
	rec.entry = entry.Name
	// names.DeliveryID leaves nothing in the ID that JSON would escape.
	rec.answer = answer{
		status: http.StatusAccepted,
		body:   fmt.Appendf(nil, `{"delivery_id":"%s","status":"queued"}`, d.ID),
	}
	return rec, false
}

// describe turns the headers into a delivery without its body.
func (h *Handler) describe(r *http.Request, b *body) (delivery.Delivery, *answer) {
	fail := func(status int, reason, message string) (delivery.Delivery, *answer) {
		a := refuse(status, reason, message)
		return delivery.Delivery{}, &a
	}
	id, ok := single(r.Header, "X-Github-Delivery")
	if !ok || !names.DeliveryID(id) {
		return fail(http.StatusBadRequest, "delivery_id_invalid",
			"X-GitHub-Delivery must be present exactly once, with 1 to 64 letters, digits and dashes")
	}
	event, ok := single(r.Header, "X-Github-Event")
	if !ok || !names.EventName(event) {
		return fail(http.StatusBadRequest, "event_invalid",
			"X-GitHub-Event must be present exactly once, with 1 to 64 printable characters and no space")
	}
	contentType, ok := single(r.Header, "Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	// Parameters do not matter here, so neither does whether they are well-formed.
	if !ok || (err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter)) {
		mediaType = ""
	}
	switch mediaType {
	case "application/json":
	case "application/x-www-form-urlencoded":
		if !hasPayloadField(b.chunks) {
			return fail(http.StatusBadRequest, "payload_missing",
				"a form body must have a field named payload; or set the webhook's content type on GitHub to application/json")
		}
	default:
		return fail(http.StatusUnsupportedMediaType, "content_type_unsupported",
			"set the webhook's content type on GitHub to application/json (application/x-www-form-urlencoded is read too)")
	}
	d := delivery.Delivery{
		ID:          id,
		Event:       event,
		ContentType: printable(contentType, 128),
		ReceivedAt:  h.now().UTC(),
		RemoteAddr:  clientAddress(r, h.proxies.XFor),
		Source:      "github",
		Salt:        delivery.NewSalt(),
	}
	if hook, ok := single(r.Header, "X-Github-Hook-Id"); ok && names.HookID(hook) {
		d.HookID = hook
	}
	return d, nil
}

// single returns the value of a header that is there exactly once. key is canonical.
func single(h http.Header, key string) (string, bool) {
	if v := h[key]; len(v) == 1 {
		return v[0], true
	}
	return "", false
}

// unread ends a request whose body has not been read to its end.
func unread(a answer) record {
	a.hangUp = true
	return record{answer: a}
}

func tooLarge() answer {
	return refuse(http.StatusRequestEntityTooLarge, "body_too_large", "a body may have at most 25 MiB")
}

func busy() answer {
	return refuse(http.StatusServiceUnavailable, "busy",
		"too many large bodies are coming in at once; the delivery was not accepted; redeliver it")
}

func readFailure(err error) answer {
	switch {
	case errors.Is(err, errTooLarge):
		return tooLarge()
	case errors.Is(err, errBusy):
		return busy()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errSlow):
		return refuse(http.StatusRequestTimeout, "body_too_slow", "the body took too long to come in")
	}
	return refuse(http.StatusBadRequest, "body_incomplete", "the body ended early or was not well-formed HTTP")
}
