package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

const formType = "application/x-www-form-urlencoded"

// payload is the little that a decision needs of a body. A field of the wrong
// type reads as absent: whether that matters depends on the event.
type payload struct {
	ref        string
	after      string
	before     string
	forward    bool // forced is there, and false
	deleted    bool
	repository string
	sender     string
	pusher     string
	only       []string // the deployments that a tip was found for
}

// parsePayload reads d's body, JSON or form. The error is worded for a void's
// detail; it quotes no more of the body than a character.
func parsePayload(d delivery.Delivery) (payload, error) {
	body := d.Body
	if mediaType, _, _ := mime.ParseMediaType(d.ContentType); mediaType == formType {
		form, err := url.ParseQuery(string(body))
		if err != nil && !form.Has("payload") {
			return payload{}, errors.New("the body is not a well-formed form; a form with a field named payload is expected")
		}
		if !form.Has("payload") {
			return payload{}, errors.New("the form has no field named payload, which would hold the event")
		}
		body = []byte(form.Get("payload"))
	}
	if !utf8.Valid(body) {
		return payload{}, errors.New("the body is not valid UTF-8, as JSON must be")
	}
	// Only these keys are decoded; each apart, so that one of a wrong type does
	// not take the others with it.
	var top struct {
		Ref        json.RawMessage `json:"ref"`
		Before     json.RawMessage `json:"before"`
		After      json.RawMessage `json:"after"`
		Forced     json.RawMessage `json:"forced"`
		Deleted    json.RawMessage `json:"deleted"`
		Repository json.RawMessage `json:"repository"`
		Sender     json.RawMessage `json:"sender"`
		Pusher     json.RawMessage `json:"pusher"`
		Only       json.RawMessage `json:"deployments"`
	}
	if err := json.Unmarshal(body, &top); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) {
			return payload{}, fmt.Errorf("the body is a JSON %s; an object is expected", wrongType.Value)
		}
		return payload{}, fmt.Errorf("the body is not JSON: %w", err)
	}
	if string(bytes.TrimSpace(body)) == "null" {
		return payload{}, errors.New("the body is a JSON null; an object is expected")
	}
	var p payload
	p.ref = text(top.Ref)
	p.after = text(top.After)
	p.before = text(top.Before)
	p.forward = string(top.Forced) == "false"
	p.deleted = string(top.Deleted) == "true"
	p.repository = member(top.Repository, "full_name")
	p.sender = member(top.Sender, "login")
	p.pusher = member(top.Pusher, "name")
	_ = json.Unmarshal(top.Only, &p.only) // of a wrong type it names none
	return p, nil
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func member(raw json.RawMessage, key string) string {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return ""
	}
	return text(object[key])
}

// check says what keeps a push from being one that can be acted upon, or "".
func (p payload) check() string {
	switch {
	case p.ref == "":
		return "the push has no ref; a text such as refs/heads/main is expected"
	case len(p.ref) > maxRef:
		return fmt.Sprintf("the ref is %d bytes long; no more than %d are expected", len(p.ref), maxRef)
	case p.ref == headsPrefix:
		return "the ref names no branch; a text such as refs/heads/main is expected"
	case p.repository == "":
		return "the push has no repository.full_name; a text such as owner/name is expected"
	case !p.deleted && !names.Commit(p.commit()):
		return fmt.Sprintf("after is %s; a hash of 40 or 64 hexadecimal digits is expected", quote(p.after))
	}
	return ""
}

// deletes says whether the push deleted its ref: GitHub sets deleted, and sends
// zeros for the commit.
func (p payload) deletes() bool { return p.deleted || strings.Trim(p.after, "0") == "" }

// commit is the pushed hash, as git prints it.
func (p payload) commit() string { return lowerASCII(p.after) }

// movedFrom is the commit from which the push moved its branch forward; "" where
// it did something else, or does not say.
func (p payload) movedFrom() string {
	if !p.forward || !names.Commit(lowerASCII(p.before)) || strings.Trim(p.before, "0") == "" {
		return ""
	}
	return lowerASCII(p.before)
}

// forcedFrom is where the branch was before a push that did something else.
func (p payload) forcedFrom() string {
	if p.movedFrom() != "" || !names.Commit(lowerASCII(p.before)) {
		return ""
	}
	return lowerASCII(p.before)
}

func (p payload) actor() string {
	if p.sender != "" {
		return actorName(p.sender)
	}
	return actorName(p.pusher)
}

func actorName(s string) string {
	if s = bounded(s); s != "" {
		return s
	}
	return unknownActor
}
