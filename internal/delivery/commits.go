package delivery

import (
	"encoding/json"
	"mime"
	"net/url"
	"strings"
)

// Commit is what a push says of a commit of it.
type Commit struct {
	ID      string `json:"id"`
	Message string `json:"message"`
	Author  struct {
		Name     string `json:"name"`
		Username string `json:"username"`
	} `json:"author"`
}

// Subject is the first line of the message.
func (c Commit) Subject() string {
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return subject
}

// Commits lists what the body of a push, JSON or form, says of its commits, that of the
// branch last. Nothing is checked; there are none where it cannot be read.
func Commits(contentType string, body []byte) []Commit {
	if kind, _, _ := mime.ParseMediaType(contentType); kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil
		}
		body = []byte(form.Get("payload"))
	}
	var push struct {
		Head    *Commit  `json:"head_commit"`
		Commits []Commit `json:"commits"`
	}
	if json.Unmarshal(body, &push) != nil {
		return nil
	}
	if push.Head != nil {
		push.Commits = append(push.Commits, *push.Head)
	}
	return push.Commits
}
