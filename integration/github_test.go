package integration

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// github signs and posts, as GitHub does.
type github struct {
	t      *testing.T
	secret string
	// addr may change: a daemon that is started again has another port.
	addr   atomic.Value
	client *http.Client
}

// delivery is one request of a webhook.
type delivery struct {
	id, event string
	body      []byte
}

func (s *site) github(addr string) *github {
	g := &github{t: s.t, secret: s.secret, client: &http.Client{
		Timeout: limit,
		// A connection each, as from many machines; and none is left at the end.
		Transport: &http.Transport{DisableKeepAlives: true},
	}}
	g.addr.Store(addr)
	return g
}

var deliveries atomic.Int64

// newID is a GUID like GitHub's, and unique.
func newID() string {
	return fmt.Sprintf("72d3162e-cc78-11e3-81ab-%012x", deliveries.Add(1))
}

// push is the delivery of a push to a branch.
func push(repository, branch, commit string) delivery {
	return pushOf(newID(), map[string]any{
		"ref": "refs/heads/" + branch, "after": commit, "deleted": false,
		"repository":  map[string]any{"full_name": repository},
		"sender":      map[string]any{"login": "ada"},
		"head_commit": map[string]any{"id": commit, "message": "A change"},
	})
}

func pushOf(id string, payload map[string]any) delivery {
	body, err := json.Marshal(payload)
	if err != nil {
		panic(err) // maps of strings can be encoded
	}
	return delivery{id, "push", body}
}

// post sends a delivery and returns the answer's status, or an error where
// there was no answer.
func (g *github) post(d delivery) (int, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+g.addr.Load().(string)+"/github-webhook", bytes.NewReader(d.body))
	if err != nil {
		return 0, err
	}
	mac := hmac.New(sha256.New, []byte(g.secret))
	mac.Write(d.body)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "GitHub-Hookshot/044aadd")
	req.Header.Set("X-GitHub-Event", d.event)
	req.Header.Set("X-GitHub-Delivery", d.id)
	req.Header.Set("X-GitHub-Hook-ID", "292430182")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := g.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// send posts a delivery that must be acknowledged.
func (g *github) send(d delivery) {
	g.t.Helper()
	if status, err := g.post(d); err != nil || status != http.StatusAccepted {
		g.t.Fatalf("delivery %s: status %d, %v", d.id, status, err)
	}
}

// insist posts a delivery until it is acknowledged, over any number of crashes
// of the daemon, until stop is closed. It says whether it was.
func (g *github) insist(d delivery, stop <-chan struct{}) bool {
	for {
		if status, err := g.post(d); err == nil && status == http.StatusAccepted {
			return true
		}
		select {
		case <-stop:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}
