package api

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// maxStreams bounds how many streams are open.
	maxStreams = 512
	// beat is how often a stream that has nothing to say shows that it is alive,
	// patience how long its reader may take for what is sent at once.
	beat     = 15 * time.Second
	patience = 10 * time.Second
	// caughtUp is how many events are read at once for a stream that is behind the feed.
	caughtUp = 100
)

// errEnded says that there is nothing to stream.
var errEnded = errors.New("the worker is starting or stopping, and does not follow the log")

// wantsStream says whether a request asks for server-sent events.
func wantsStream(r *http.Request) bool {
	for accepted := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if kind, _, err := mime.ParseMediaType(accepted); err == nil && kind == "text/event-stream" {
			return true
		}
	}
	return false
}

// stream sends the events that the request chooses, and those to come, until the client
// leaves, does not read, or the feed ends. An event's ID is its position; so a client that
// comes back with the last one that it has goes on behind it.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) error {
	given, err := parameters(r, "after", "type", "deployment", "delivery")
	if err != nil {
		return err
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		given["after"] = last
	}
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		return errTooMany
	}
	filter, source, err := h.streamed(r, given)
	if err != nil {
		return err
	}
	_, head, _, begun, _ := h.o.Feed.next(0)
	if !begun {
		return errEnded
	}
	if filter.After = min(filter.After, head); given["after"] == "" {
		filter.After = head
	}
	s := sender{w: w, to: http.NewResponseController(w), patience: h.patience}
	// The server's limits are for answers that end.
	if err := s.to.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("keep the stream open: %w", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	if r.Method == http.MethodHead {
		return nil
	}
	s.send("retry: 2000\n: from position %d\n\n", filter.After)
	beats := time.NewTicker(h.beat)
	defer beats.Stop()
	for {
		events, position, changed, begun, held := h.o.Feed.next(filter.After)
		switch {
		case !begun:
			return nil
		case held:
			for _, e := range events {
				if filter.Match(e.Event) {
					s.event(e.Position, e.json)
				}
			}
			filter.After = position
		default:
			if filter.After, err = h.catchUp(r.Context(), source, filter, &s); err != nil {
				h.o.Log.Warn("an event stream ends", "error", err)
				return nil
			}
		}
		if s.flush() != nil {
			return nil
		}
		if !held {
			continue
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-changed:
		case <-beats.C: // also the position, so that who comes back need not go through what it left out
			s.send(": alive\nid: %d\n\n", filter.After)
		}
	}
}

// streamed is what a stream chooses. A delivery that the log does not have may yet come.
func (h *Handler) streamed(r *http.Request, given map[string]string) (eventlog.Filter, answer.Source, error) {
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err != nil {
		return eventlog.Filter{}, source, err
	}
	filter, err := filterOf(ctx, source, given)
	if _, unknown := answer.IsUnknownDelivery(err); unknown {
		filter.DeliveryID, err = given["delivery"], nil
	}
	return filter, source, err
}

// catchUp sends what is behind the position, as much as is read at once, and returns how
// far that is.
func (h *Handler) catchUp(ctx context.Context, source answer.Source, filter eventlog.Filter, s *sender) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	a, more, err := page(ctx, source, filter, caughtUp)
	if err != nil {
		return 0, err
	}
	for _, e := range a.Events {
		raw, err := words.JSON(e)
		if err != nil {
			return 0, err
		}
		s.event(e.Position, raw)
	}
	if more {
		return a.Events[len(a.Events)-1].Position, nil
	}
	return a.Head, nil
}

// sender writes server-sent events to a client. It keeps the first error, after which it
// writes nothing: the client has left, or does not read.
type sender struct {
	w        http.ResponseWriter
	to       *http.ResponseController
	patience time.Duration
	err      error
}

func (s *sender) event(position int64, raw []byte) {
	s.send("id: %d\ndata: %s\n\n", position, raw) // JSON has no line break
}

func (s *sender) send(format string, args ...any) {
	if s.err == nil {
		s.err = s.to.SetWriteDeadline(time.Now().Add(s.patience))
	}
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...) //nolint:gosec // no browser takes an event stream for HTML
	}
}

func (s *sender) flush() error {
	if s.err == nil {
		s.err = s.to.Flush()
	}
	return s.err
}
