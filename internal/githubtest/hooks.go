package githubtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hook is a webhook: of a repository ("repos/octo/web"), an organization ("orgs/octo"),
// or the App ("app").
type Hook struct {
	ID     int64
	Of     string
	URL    string
	Secret string

	deliveries []attempt // the newest last
}

// attempt is one delivery of an event, with what was sent.
type attempt struct {
	ID             int64     `json:"id"`
	GUID           string    `json:"guid"`
	DeliveredAt    time.Time `json:"delivered_at"`
	Redelivery     bool      `json:"redelivery"`
	Duration       float64   `json:"duration"`
	Status         string    `json:"status"`
	StatusCode     int       `json:"status_code"`
	Event          string    `json:"event"`
	Action         *string   `json:"action"`
	InstallationID *int64    `json:"installation_id"`
	RepositoryID   *int64    `json:"repository_id"`
	ThrottledAt    *string   `json:"throttled_at"`

	body []byte
}

// AddHook makes a webhook, whose ID may be left to the server.
func (s *Server) AddHook(h Hook) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.ID == 0 {
		h.ID = s.id()
	}
	s.hooks[h.ID] = &h
	return h.ID
}

// Aim changes where a webhook sends to.
func (s *Server) Aim(hook int64, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks[hook].URL = url
}

// PushBody is the body of a push event.
func PushBody(repository, branch, before, after string) []byte {
	body, err := json.Marshal(map[string]any{
		"ref": "refs/heads/" + branch, "before": before, "after": after, "created": strings.Trim(before, "0") == "", "deleted": false, "forced": false,
		"repository":  map[string]any{"id": 1296269, "full_name": repository, "default_branch": branch},
		"pusher":      map[string]any{"name": "ada"},
		"sender":      map[string]any{"login": "ada"},
		"head_commit": map[string]any{"id": after, "message": "A change"},
	})
	if err != nil {
		panic(err) // it is ours
	}
	return body
}

// Deliver sends an event to a webhook, once, as GitHub does: it returns the GUID, and
// the status that it keeps for the attempt, which is a 502 where nobody answers.
func (s *Server) Deliver(hook int64, event string, body []byte) (guid string, status int) {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	guid = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	return guid, s.deliver(hook, attempt{GUID: guid, Event: event, body: body})
}

func (s *Server) deliver(hook int64, a attempt) int {
	s.mu.Lock()
	h := *s.hooks[hook]
	a.ID, a.DeliveredAt = s.id(), s.Now().UTC().Truncate(time.Second)
	s.mu.Unlock()
	a.StatusCode, a.Status = s.send(h, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks[hook].deliveries = append(s.hooks[hook].deliveries, a)
	return a.StatusCode
}

func (s *Server) send(h Hook, a attempt) (int, string) {
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(a.body))
	if err != nil {
		return http.StatusBadGateway, "failed to connect"
	}
	kind, _, _ := strings.Cut(h.Of, "/")
	for name, value := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "GitHub-Hookshot/044aadd",
		"X-GitHub-Event": a.Event, "X-GitHub-Delivery": a.GUID, "X-GitHub-Hook-ID": strconv.FormatInt(h.ID, 10),
		"X-GitHub-Hook-Installation-Target-Type": map[string]string{"repos": "repository", "orgs": "organization", "app": "integration"}[kind],
		"X-Hub-Signature-256":                    sign(h.Secret, a.body),
	} {
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return http.StatusGatewayTimeout, "timed out"
		}
		return http.StatusBadGateway, "failed to connect"
	}
	_ = resp.Body.Close()
	if resp.StatusCode < 300 {
		return resp.StatusCode, "OK"
	}
	return resp.StatusCode, "Invalid HTTP Response: " + strconv.Itoa(resp.StatusCode)
}

// hook finds what a path names; GitHub shows nobody another's.
func (s *Server) hook(m []string) *Hook {
	if m[0] == "app" {
		for _, h := range s.hooks {
			if h.Of == "app" {
				return h
			}
		}
		return nil
	}
	id, _ := strconv.ParseInt(m[1], 10, 64)
	if h := s.hooks[id]; h != nil && strings.EqualFold(h.Of, m[0]) {
		return h
	}
	return nil
}

func (s *Server) listDeliveries(r *http.Request, m []string, _ []byte) reply {
	h := s.hook(m)
	if h == nil {
		return fault(http.StatusNotFound, "Not Found")
	}
	size := 100
	if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && n > 0 {
		size = min(n, size)
	}
	if s.PageSize > 0 {
		size = min(size, s.PageSize)
	}
	found := slices.Clone(h.deliveries)
	slices.Reverse(found)
	if cursor, err := strconv.ParseInt(r.URL.Query().Get("cursor"), 10, 64); err == nil {
		found = found[slices.IndexFunc(found, func(a attempt) bool { return a.ID == cursor }):]
	}
	a := reply{status: http.StatusOK, header: http.Header{}}
	if len(found) > size {
		next := url.URL{Scheme: "http", Host: s.listener.Addr().String(), Path: r.URL.Path}
		next.RawQuery = url.Values{"per_page": {strconv.Itoa(size)}, "cursor": {strconv.FormatInt(found[size].ID, 10)}}.Encode()
		a.header.Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next.String()))
		found = found[:size]
	}
	a.body = append([]attempt{}, found...)
	return a
}

// named finds the delivery that a path names.
func (s *Server) named(m []string) (h *Hook, a attempt, ok bool) {
	if h = s.hook(m); h == nil {
		return nil, a, false
	}
	id, _ := strconv.ParseInt(m[len(m)-1], 10, 64)
	i := slices.IndexFunc(h.deliveries, func(a attempt) bool { return a.ID == id })
	if i < 0 {
		return nil, a, false
	}
	return h, h.deliveries[i], true
}

func (s *Server) delivery(_ *http.Request, m []string, _ []byte) reply {
	h, a, ok := s.named(m)
	if !ok {
		return fault(http.StatusNotFound, "Not Found")
	}
	return reply{status: http.StatusOK, body: struct {
		attempt
		URL     string         `json:"url"`
		Request map[string]any `json:"request"`
	}{a, h.URL, map[string]any{"headers": map[string]string{"X-GitHub-Delivery": a.GUID}, "payload": json.RawMessage(a.body)}}}
}

func (s *Server) attempt(_ *http.Request, m []string, _ []byte) reply {
	h, again, ok := s.named(m)
	if !ok {
		return fault(http.StatusNotFound, "Not Found")
	}
	again.Redelivery = true
	s.attempts.Go(func() { s.deliver(h.ID, again) })
	return reply{status: http.StatusAccepted, body: map[string]any{}}
}

// Wait waits until what was asked for again has been sent.
func (s *Server) Wait() { s.attempts.Wait() }

// Attempts counts what was sent for a GUID.
func (s *Server) Attempts(guid string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, h := range s.hooks {
		for _, a := range h.deliveries {
			if a.GUID == guid {
				n++
			}
		}
	}
	return n
}
