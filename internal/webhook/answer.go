package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// writeTimeout is the time that a client may take to accept an answer, which is
// smaller than any socket buffer.
const writeTimeout = 10 * time.Second

// lingerTimeout is how long the rest of a refused body is still read, so that
// the answer reaches a client that sends everything before it reads anything.
const lingerTimeout = 2 * time.Second

// retryAfter is the number of seconds after which a sender should try again.
const retryAfter = 10

// answer is what a request ends in.
type answer struct {
	status int
	body   []byte // JSON
	reason string // for the log; "" where all is well
	allow  string // the Allow header of a 405
	// hangUp ends the connection: what is still to come of the body is not
	// worth waiting for.
	hangUp bool
}

// refusal is the JSON of an error. It is what a person finds in GitHub's
// "Recent deliveries", so Message says what to change and where.
type refusal struct {
	Error   string `json:"error"`  // the kind, one for each status
	Reason  string `json:"reason"` // a fixed word for programs
	Message string `json:"message"`
}

var kinds = map[int]string{
	http.StatusBadRequest:            "bad_request",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusNotFound:              "not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusRequestTimeout:        "timeout",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusUnsupportedMediaType:  "unsupported_media_type",
	http.StatusServiceUnavailable:    "unavailable",
}

// Statuses are those of the answers to webhooks.
func Statuses() []int {
	return append(slices.Sorted(maps.Keys(kinds)), http.StatusAccepted)
}

func refuse(status int, reason, message string) answer {
	body, err := json.Marshal(refusal{Error: kinds[status], Reason: reason, Message: message})
	if err != nil { // three strings always encode
		body = []byte(`{"error":"internal"}`)
	}
	return answer{status: status, body: body, reason: reason}
}

func (a answer) write(w http.ResponseWriter) {
	// Neither deadline can be set on a recorder, and then none is needed.
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if a.allow != "" {
		h.Set("Allow", a.allow)
	}
	if a.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if a.hangUp {
		h.Set("Connection", "close")
		_ = rc.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that is gone learns nothing more
	_ = rc.Flush()         // the log comes after the answer
}

func statusJSON(o Options) ([]byte, error) {
	b, err := json.Marshal(struct {
		Status   string `json:"status"`
		Message  string `json:"message"`
		Service  string `json:"service"`
		Instance string `json:"instance"`
		Version  string `json:"version,omitempty"`
	}{"ok", o.Service + " is listening; GitHub posts to " + pathWebhook, o.Service, o.Instance, o.Version})
	if err != nil {
		return nil, fmt.Errorf("encode the status page: %w", err)
	}
	return b, nil
}
