package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxPages bounds a list, so that a server that always has one more page comes to an end.
const maxPages = 100

// Hook is a webhook whose deliveries are asked for.
type Hook struct {
	// path is what its deliveries are under, needs the permission for them without
	// its access, repository in whose name it is asked.
	path, needs, repository string
	name                    string
}

// String names the hook for people.
func (h Hook) String() string { return h.name }

// Delivery is one attempt to deliver an event. Attempts for the same event share the GUID.
type Delivery struct {
	ID          int64     `json:"id"`
	GUID        string    `json:"guid"`
	DeliveredAt time.Time `json:"delivered_at"`
	Redelivery  bool      `json:"redelivery"`
	Status      string    `json:"status"`
	StatusCode  int       `json:"status_code"`
	Event       string    `json:"event"`
}

// Hook finds a webhook by its ID, which every delivery names: it is the repository's,
// its owner's, or the App's own.
func (c *Client) Hook(ctx context.Context, repository string, id int64) (Hook, error) {
	path, err := repositoryPath(repository)
	if err != nil {
		return Hook{}, &Error{What: "find the webhook", Message: err.Error(), Err: err}
	}
	owner, _, _ := strings.Cut(repository, "/")
	candidates := []Hook{
		{fmt.Sprintf("%s/hooks/%d", path, id), "repository_hooks", repository, fmt.Sprintf("webhook %d of %s", id, repository)},
		{fmt.Sprintf("/orgs/%s/hooks/%d", url.PathEscape(owner), id), "organization_hooks", repository, fmt.Sprintf("webhook %d of %s", id, owner)},
	}
	if c.o.Token == nil {
		candidates = append(candidates, Hook{"/app/hook", "", "", fmt.Sprintf("the webhook of App %d", c.o.AppID)})
	}
	var told *Error
	for _, h := range candidates {
		err := c.deliveries(ctx, h, "?per_page=1", func([]Delivery) bool { return false })
		if err == nil {
			return h, nil
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Temporary || e.Status != http.StatusNotFound && e.Status != http.StatusForbidden {
			return Hook{}, err
		}
		switch {
		case told == nil || told.Status == http.StatusNotFound && e.Status == http.StatusForbidden:
			told = e
		case told.Status == e.Status && e.Needs != "":
			told.Needs += ", or " + e.Needs // GitHub does not say whose the hook is
		}
	}
	told.What = fmt.Sprintf("find webhook %d of %s", id, repository)
	return Hook{}, told
}

// Deliveries lists the attempts since a time, the newest first.
func (c *Client) Deliveries(ctx context.Context, h Hook, since time.Time) ([]Delivery, error) {
	var all []Delivery
	err := c.deliveries(ctx, h, "?per_page=100", func(page []Delivery) bool {
		for _, d := range page {
			if d.DeliveredAt.Before(since) {
				return false
			}
			all = append(all, d)
		}
		return true
	})
	return all, err
}

// deliveries calls page with each page until that is false.
func (c *Client) deliveries(ctx context.Context, h Hook, query string, page func([]Delivery) bool) error {
	r := request{
		what: "list the deliveries of " + h.name, method: http.MethodGet,
		path: h.path + "/deliveries" + query, repository: h.repository,
	}
	if h.needs != "" {
		r.needs = h.needs + "=read"
	}
	for range maxPages {
		var found []Delivery
		r.into = &found
		next, err := c.do(ctx, r)
		if err != nil {
			return err
		}
		if !page(found) || next == "" {
			return nil
		}
		r.path = next
	}
	return nil
}

// Push is what the payload of a push says of itself.
type Push struct {
	Repository, Ref, After string
}

// Push reads what a delivery of a push was of.
func (c *Client) Push(ctx context.Context, h Hook, delivery int64) (Push, error) {
	var found struct {
		Request struct {
			Payload struct {
				Ref, After string
				Repository struct {
					FullName string `json:"full_name"`
				}
			}
		}
	}
	r := request{
		what: "read a delivery of " + h.name, method: http.MethodGet,
		path: fmt.Sprintf("%s/deliveries/%d", h.path, delivery), repository: h.repository, into: &found,
	}
	if h.needs != "" {
		r.needs = h.needs + "=read"
	}
	_, err := c.do(ctx, r)
	p := found.Request.Payload
	return Push{p.Repository.FullName, p.Ref, p.After}, err
}

// Redeliver asks GitHub to send a delivery once more, to the same address, under the
// same GUID.
func (c *Client) Redeliver(ctx context.Context, h Hook, delivery int64) error {
	r := request{
		what: "ask for another attempt of a delivery of " + h.name, method: http.MethodPost,
		path: fmt.Sprintf("%s/deliveries/%d/attempts", h.path, delivery), repository: h.repository,
	}
	if h.needs != "" {
		r.needs = h.needs + "=write"
	}
	_, err := c.do(ctx, r)
	return err
}
