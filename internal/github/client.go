// Package github asks GitHub's API for the little that the deployer needs: commit
// statuses, deployments, and the deliveries of a webhook. It is net/http and nothing else.
//
// It does not repeat a request: those who ask keep what they owe, and try again when
// the Error says. While GitHub's limits forbid it, nothing is sent at all.
package github

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

const (
	// answerWithin bounds a request with its answer.
	answerWithin = 20 * time.Second
	// maxAnswer bounds an answer, in bytes: a page of a hundred deliveries has 50 KiB.
	maxAnswer = 4 << 20
	// maxKept bounds the answers that are kept for conditional requests.
	maxKept = 64
	// secondaryPause is how long GitHub wants to be left alone where it does not say.
	secondaryPause = time.Minute
	// apiVersion is the version of the API that these requests are written for.
	apiVersion = "2022-11-28"
)

// Options say whom to ask, and as whom: with a Token, or as the App of an ID and Key.
type Options struct {
	// APIURL is the root of the API: https://api.github.com, or https://HOST/api/v3.
	APIURL string
	// Token is asked for before each request, so that one that was replaced counts at once.
	Token func() (string, error)
	AppID int
	Key   func() (*rsa.PrivateKey, error)
	// Version is this program's.
	Version string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Client asks GitHub. It may be used by several goroutines.
type Client struct {
	o    Options
	api  *url.URL
	http *http.Client

	mu            sync.Mutex
	quotas        map[int64]quota    // by installation; 0 is the token, or the App itself
	kept          map[keptKey]answer // for conditional requests
	installations map[string]int64   // by repository
	tokens        map[int64]installationToken
}

// quota is what GitHub allows somebody.
type quota struct {
	Budget
	until time.Time // when the next request may be sent
	why   string
}

// Budget is what is left of the requests that GitHub allows in an hour.
type Budget struct {
	Limit, Remaining int
	Reset            time.Time
}

type keptKey struct {
	as  int64
	url string
}

type answer struct {
	etag, next string
	body       []byte
}

// New returns a client. The APIURL is one that the configuration has checked.
func New(o Options) (*Client, error) {
	api, err := url.Parse(strings.TrimRight(o.APIURL, "/"))
	if err != nil {
		return nil, fmt.Errorf("api_url: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Client{
		o: o, api: api,
		quotas: map[int64]quota{}, kept: map[keptKey]answer{}, installations: map[string]int64{}, tokens: map[int64]installationToken{},
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
	c.http = &http.Client{Transport: transport, CheckRedirect: c.redirect}
	return c, nil
}

// redirect follows GitHub on its own host only, where the token may go, and never
// makes another request of a POST.
func (c *Client) redirect(next *http.Request, via []*http.Request) error {
	if len(via) > 3 || !c.ours(next.URL) || next.Method != via[0].Method {
		return http.ErrUseLastResponse
	}
	return nil
}

func (c *Client) ours(u *url.URL) bool { return u.Scheme == c.api.Scheme && u.Host == c.api.Host }

// Budget is what is left of the requests that GitHub allows, of whoever has the least
// where the App has several installations; false before the first answer, and where
// GitHub sets no limit.
func (c *Client) Budget() (Budget, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var least Budget
	for _, q := range c.quotas {
		if q.Limit > 0 && (least.Limit == 0 || q.Remaining < least.Remaining) {
			least = q.Budget
		}
	}
	return least, least.Limit > 0
}

// request is one question.
type request struct {
	// what it does and needs, for errors; needs is as in GitHub's header.
	what, needs  string
	method, path string
	// repository is in whose installation's name it is asked; "" is as the App itself.
	repository string
	body, into any
}

// do asks, and returns the address of the next page, if there is one. An error is an *Error.
func (c *Client) do(ctx context.Context, r request) (next string, err error) {
	for try := 0; ; try++ {
		as, token, err := c.credentials(ctx, r)
		if err != nil {
			return "", err
		}
		next, err := c.ask(ctx, r, as, token)
		// An installation's token may be revoked before its time: another one is asked for, once.
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusUnauthorized && as != 0 && try == 0 {
			c.forget(as)
			continue
		}
		return next, err
	}
}

// ask asks in the name of an installation (0 is the token, or the App itself).
func (c *Client) ask(ctx context.Context, r request, as int64, token string) (next string, err error) {
	fail := func(e Error) (string, error) {
		e.What = r.what
		// A server that repeats what it was sent must not make us repeat it.
		e.Message = strings.ReplaceAll(e.Message, token, mask.Secret)
		return "", &e
	}
	if q := c.quota(as); c.o.Now().Before(q.until) {
		return fail(Error{Message: q.why, Temporary: true, RetryAt: q.until})
	}
	var body io.Reader
	if r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return fail(Error{Message: err.Error(), Err: err})
		}
		body = bytes.NewReader(encoded)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, fmt.Errorf("no answer within %s", answerWithin))
	defer cancel()
	address := r.path
	if !strings.Contains(address, "://") { // a link to another page is whole
		address = c.api.String() + r.path
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return fail(Error{Message: err.Error(), Err: err})
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", apiVersion)
	req.Header.Set("User-Agent", "durhack-deployer/"+c.o.Version)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	key := keptKey{as, address}
	c.mu.Lock()
	known, conditional := c.kept[key]
	c.mu.Unlock()
	if conditional = conditional && r.method == http.MethodGet; conditional {
		req.Header.Set("If-None-Match", known.etag)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the rest is said already
		}
		return fail(Error{Message: "no answer: " + oneLine(err.Error()), Temporary: true, Err: err})
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	limited := c.note(as, resp, content)
	switch {
	case limited != nil:
		return fail(*limited)
	case err != nil:
		return fail(Error{Status: resp.StatusCode, Message: "the answer broke off: " + oneLine(err.Error()), Temporary: true, Err: err})
	case resp.StatusCode == http.StatusNotModified && conditional:
		content, next = known.body, known.next
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return fail(c.refusal(resp, content, r.needs))
	case len(content) > maxAnswer:
		return fail(Error{Status: resp.StatusCode, Message: fmt.Sprintf("the answer is larger than %d MiB", maxAnswer>>20)})
	default:
		if next, err = c.next(resp); err != nil {
			return fail(Error{Status: resp.StatusCode, Message: err.Error(), Err: err})
		}
	}
	into := r.into
	if into == nil && len(content) > 0 { // a proxy's page must not pass for what GitHub says
		into = new(json.RawMessage)
	}
	if into == nil {
		return next, nil
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fail(Error{Status: resp.StatusCode, Message: "the answer is not the JSON that was expected", Temporary: true, Err: err})
	}
	if etag := resp.Header.Get("ETag"); etag != "" && r.method == http.MethodGet {
		c.keep(key, answer{etag, next, content})
	}
	return next, nil
}

func (c *Client) quota(as int64) quota {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quotas[as]
}

func (c *Client) keep(key keptKey, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= maxKept {
		clear(c.kept)
	}
	c.kept[key] = a
}

// note takes from an answer what is left of somebody's requests, and returns an error
// where it was refused because there are none left, or because they came too fast.
func (c *Client) note(as int64, resp *http.Response, content []byte) *Error {
	number := func(name string) (int, bool) {
		n, err := strconv.Atoi(resp.Header.Get(name))
		return n, err == nil && n >= 0
	}
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.quotas[as]
	defer func() { c.quotas[as] = q }()
	spent := false
	limit, ok := number("X-RateLimit-Limit")
	if remaining, known := number("X-RateLimit-Remaining"); ok && known {
		reset, _ := number("X-RateLimit-Reset")
		q.Budget = Budget{limit, remaining, time.Unix(int64(reset), 0)}
		// By this clock the hour may be over already; then there are more.
		if spent = remaining == 0 && q.Reset.After(now); spent {
			q.until, q.why = q.Reset, fmt.Sprintf("all %d requests of this hour are used up", limit)
			if hour := now.Add(time.Hour); hour.Before(q.until) { // by a clock that is behind
				q.until = hour
			}
		}
	}
	if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusTooManyRequests {
		return nil
	}
	after, told := number("Retry-After")
	message := messageOf(content)
	lower := strings.ToLower(message)
	switch {
	case told:
		q.until, q.why = now.Add(seconds(after)), message
	case spent:
	case resp.StatusCode == http.StatusTooManyRequests, strings.Contains(lower, "rate limit"), strings.Contains(lower, "abuse"):
		q.until, q.why = now.Add(secondaryPause), message
	default:
		return nil // a permission
	}
	return &Error{Status: resp.StatusCode, Message: q.why, Temporary: true, RetryAt: q.until}
}

// refusal is the error of an answer that is not a success.
func (c *Client) refusal(resp *http.Response, content []byte, needs string) Error {
	e := Error{Status: resp.StatusCode, Message: messageOf(content)}
	switch {
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusRequestTimeout:
		e.Temporary = true
		if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && after > 0 {
			e.RetryAt = c.o.Now().Add(seconds(after))
		}
	case resp.StatusCode == http.StatusUnauthorized && c.o.Token == nil:
		// What the App signs has the time in it.
		if theirs, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			if ahead := c.o.Now().Sub(theirs).Round(time.Second); ahead.Abs() > jwtSince {
				e.ClockAhead = ahead
			}
		}
	case resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusNotFound:
		if said := resp.Header.Get("X-Accepted-GitHub-Permissions"); said != "" {
			needs = said
		}
		e.Needs = permission(needs)
	}
	return e
}

// seconds is what a Retry-After asks for, within reason.
func seconds(n int) time.Duration { return min(time.Duration(min(n, 1<<20))*time.Second, 24*time.Hour) }

// messageOf is what GitHub says in the body of an error.
func messageOf(content []byte) string {
	var said struct {
		Message string `json:"message"`
		Errors  []any  `json:"errors"`
	}
	if json.Unmarshal(content, &said) != nil || said.Message == "" {
		return "it does not say why"
	}
	for _, detail := range said.Errors {
		switch d := detail.(type) {
		case string:
			said.Message += ": " + d
		case map[string]any:
			if text, ok := d["message"].(string); ok {
				said.Message += ": " + text
			}
		}
	}
	return oneLine(said.Message)
}

var nextLink = regexp.MustCompile(`<([^<>]*)>\s*;[^,<]*\brel="?next\b`)

// next is the address of the next page in the Link headers of an answer, which must be of
// the same server: the token goes there.
func (c *Client) next(resp *http.Response) (string, error) {
	m := nextLink.FindStringSubmatch(strings.Join(resp.Header.Values("Link"), ", "))
	if m == nil {
		return "", nil
	}
	u, err := resp.Request.URL.Parse(m[1])
	if err != nil || !c.ours(u) {
		return "", fmt.Errorf("the next page is on another server (%s)", oneLine(m[1]))
	}
	return u.String(), nil
}
