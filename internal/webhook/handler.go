// Package webhook owns the public HTTP side: it checks what GitHub sends and
// puts it into the main queue, byte for byte. It knows the queue and the webhook
// secret and nothing else: no database, no lock, no configuration of deployments.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/queue"
)

// The paths that are served; any other is 404.
const (
	pathStatus  = "/"
	pathHealth  = "/healthz"
	pathWebhook = "/github-webhook"
)

// Queue is where deliveries go. Put is durable when it returns nil.
type Queue interface {
	Put(ctx context.Context, deliveryID string, write func(io.Writer) error) (queue.Entry, error)
}

// ProxyFix says how many proxies in front of the listener are trusted, for
// each of the headers that they add to. 0 ignores the header.
type ProxyFix struct {
	// XFor is for X-Forwarded-For, XProto for X-Forwarded-Proto.
	XFor, XProto int
}

// Options of NewHandler. Secrets, Queue and Log are required.
type Options struct {
	// Secrets are those of which any one may have signed, so that a secret can
	// be rotated without a gap. They are copied.
	Secrets [][]byte
	Queue   Queue
	Log     *slog.Logger
	// ProxyFix concerns only the client address that is logged and recorded.
	ProxyFix ProxyFix
	// Instance, Service and Version are shown by GET /. Service is
	// "durhack-deployer" where it is empty; an empty Version is not shown.
	Instance, Service, Version string
	// Now is time.Now where it is nil; it dates deliveries.
	Now func() time.Time
	// BodyTimeout is the time that a body may take to come in; 30 s where it is 0.
	BodyTimeout time.Duration
	// MemoryWait is the time that a request waits for memory for its body
	// before it is refused; 10 s where it is 0.
	MemoryWait time.Duration
	// Answered, if not nil, is told the status of each answer to a webhook, and the
	// reason where it is a refusal.
	Answered func(status int, reason string)
	// PutTimeout is the time that the queue may take to store a delivery before
	// its sender is refused; 8 s where it is 0, within GitHub's 10 s.
	PutTimeout time.Duration
}

// ErrNoSecret is returned by NewHandler: a listener that cannot tell GitHub from
// anybody else must not start.
var ErrNoSecret = errors.New("no webhook secret")

// Handler answers the public routes.
type Handler struct {
	secrets     [][]byte
	queue       Queue
	log         *slog.Logger
	proxies     ProxyFix
	now         func() time.Time
	bodyTimeout time.Duration
	memory      *memory
	answered    func(status int, reason string)
	putTimeout  time.Duration
	puts        chan struct{} // has room for maxPuts
	late        atomic.Int64  // how many of them are not waited for any more
	status      []byte        // the JSON of GET /
}

// NewHandler returns the public routes: GET /, GET /healthz and POST /github-webhook.
func NewHandler(o Options) (*Handler, error) {
	if len(o.Secrets) == 0 {
		return nil, fmt.Errorf("%w: at least one is needed to check signatures", ErrNoSecret)
	}
	secrets := make([][]byte, len(o.Secrets))
	for i, s := range o.Secrets {
		if len(s) == 0 {
			return nil, fmt.Errorf("%w: secret %d of %d is empty", ErrNoSecret, i+1, len(o.Secrets))
		}
		secrets[i] = append([]byte(nil), s...)
	}
	if o.Queue == nil || o.Log == nil {
		return nil, errors.New("webhook: a queue and a logger are required")
	}
	if o.ProxyFix.XFor < 0 || o.ProxyFix.XProto < 0 {
		return nil, errors.New("webhook: the number of trusted proxies cannot be negative")
	}
	if o.Service == "" {
		o.Service = "durhack-deployer"
	}
	if o.Answered == nil {
		o.Answered = func(int, string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = 30 * time.Second
	}
	if o.MemoryWait == 0 {
		o.MemoryWait = 10 * time.Second
	}
	if o.PutTimeout == 0 {
		o.PutTimeout = 8 * time.Second
	}
	status, err := statusJSON(o)
	if err != nil {
		return nil, err
	}
	return &Handler{
		secrets:     secrets,
		queue:       o.Queue,
		log:         o.Log,
		proxies:     o.ProxyFix,
		now:         o.Now,
		bodyTimeout: o.BodyTimeout,
		memory:      newMemory(o.MemoryWait),
		answered:    o.Answered,
		putTimeout:  o.PutTimeout,
		puts:        make(chan struct{}, maxPuts),
		status:      status,
	}, nil
}

// ServeHTTP implements http.Handler. Every request ends in one answer and one log line.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := record{}
	switch r.URL.Path {
	case pathStatus:
		rec.answer = onlyGet(r, h.status)
	case pathHealth:
		rec.answer = onlyGet(r, []byte(`{"status":"ok"}`))
		if rec.status == http.StatusOK {
			rec.level = slog.LevelDebug // asked every few seconds by a monitor
		}
	case pathWebhook:
		var answered bool
		if rec, answered = h.receive(w, r, start); answered {
			return
		}
	default:
		rec.answer = refuse(http.StatusNotFound, "no_such_path",
			"there is nothing here; a webhook's payload URL ends in "+pathWebhook)
		rec.hangUp = r.ContentLength != 0
	}
	h.answer(w, r, rec, start)
}

// answer ends a request, and tells of it.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, rec record, start time.Time) {
	rec.write(w)
	if r.URL.Path == pathWebhook {
		h.answered(rec.status, rec.reason)
	}
	h.logRequest(r, rec, time.Since(start))
}

// onlyGet answers GET and HEAD with body and anything else with 405.
func onlyGet(r *http.Request, body []byte) answer {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a := refuse(http.StatusMethodNotAllowed, "method_not_allowed", "only GET and HEAD are answered here")
		a.allow, a.hangUp = "GET, HEAD", r.ContentLength != 0
		return a
	}
	return answer{status: http.StatusOK, body: body, hangUp: r.ContentLength != 0}
}
