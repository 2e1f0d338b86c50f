package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// States of a commit status; a DeploymentStatus has more.
const (
	StatePending    = "pending"
	StateSuccess    = "success"
	StateFailure    = "failure"
	StateError      = "error"
	StateInProgress = "in_progress" // of a deployment
	StateInactive   = "inactive"    // of a deployment
)

// MaxDescription is the longest description that GitHub takes.
const MaxDescription = 140

// Status is what is said of a commit, under a context.
type Status struct {
	State       string `json:"state"`
	TargetURL   string `json:"target_url,omitempty"`
	Description string `json:"description,omitempty"`
	Context     string `json:"context"`
}

// CreateStatus says something of a commit of a repository ("owner/name").
func (c *Client) CreateStatus(ctx context.Context, repository, commit string, s Status) error {
	path, err := repositoryPath(repository)
	if err == nil && !names.Commit(commit) {
		err = fmt.Errorf("%q is not a commit hash", commit)
	}
	if err != nil {
		return &Error{What: "create a commit status", Message: err.Error(), Err: err}
	}
	_, err = c.do(ctx, request{
		what: "create a commit status of " + repository, needs: "statuses=write", method: http.MethodPost,
		path: path + "/statuses/" + commit, repository: repository, body: s,
	})
	return err
}

// noCommit names a commit that no repository has.
var noCommit = strings.Repeat("0", 40)

// MayCreateStatus says what keeps CreateStatus from working for a repository, by asking
// for a status of a commit that does not exist: whoever may not create one is refused
// before that is found out.
func (c *Client) MayCreateStatus(ctx context.Context, repository string) error {
	return allowed(c.CreateStatus(ctx, repository, noCommit, Status{State: StatePending, Context: "durhack-deployer/doctor"}))
}

// allowed is nil for the refusal that whoever has the permission gets.
func allowed(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusUnprocessableEntity {
		return nil
	}
	return err
}

// Deployment is a commit on the way to an environment.
type Deployment struct {
	ID          int64  `json:"id"`
	SHA         string `json:"sha"`
	Environment string `json:"environment"`
	Description string `json:"description"`
}

// CreateDeployment says that a commit is on the way to an environment. Nothing is
// merged for it, and no check of the commit must have passed: it happens anyway.
func (c *Client) CreateDeployment(ctx context.Context, repository, commit, environment, description string) (Deployment, error) {
	var made Deployment
	path, err := repositoryPath(repository)
	if err == nil && !names.Commit(commit) {
		err = fmt.Errorf("%q is not a commit hash", commit)
	}
	if err != nil {
		return made, &Error{What: "create a deployment", Message: err.Error(), Err: err}
	}
	_, err = c.do(ctx, request{
		what: "create a deployment of " + repository, needs: "deployments=write", method: http.MethodPost,
		path: path + "/deployments", repository: repository, into: &made,
		body: map[string]any{
			"ref": commit, "environment": environment, "description": description,
			"auto_merge": false, "required_contexts": []string{},
		},
	})
	return made, err
}

// MayCreateDeployment is MayCreateStatus for deployments.
func (c *Client) MayCreateDeployment(ctx context.Context, repository string) error {
	_, err := c.CreateDeployment(ctx, repository, noCommit, "durhack-deployer/doctor", "")
	return allowed(err)
}

// DeploymentStatus is how far a deployment is.
type DeploymentStatus struct {
	State          string `json:"state"`
	LogURL         string `json:"log_url,omitempty"`
	Description    string `json:"description,omitempty"`
	EnvironmentURL string `json:"environment_url,omitempty"`
	// AutoInactive has GitHub set the deployments before it in the same environment inactive.
	AutoInactive bool `json:"auto_inactive"`
}

// CreateDeploymentStatus says how far a deployment is.
func (c *Client) CreateDeploymentStatus(ctx context.Context, repository string, deployment int64, s DeploymentStatus) error {
	path, err := repositoryPath(repository)
	if err != nil {
		return &Error{What: "create a deployment status", Message: err.Error(), Err: err}
	}
	_, err = c.do(ctx, request{
		what: "create a deployment status of " + repository, needs: "deployments=write", method: http.MethodPost,
		path: fmt.Sprintf("%s/deployments/%d/statuses", path, deployment), repository: repository, body: s,
	})
	return err
}

// Deployments lists the newest deployments of an environment, of a commit where one is
// named; the newest first, at most a hundred.
func (c *Client) Deployments(ctx context.Context, repository, environment, commit string) ([]Deployment, error) {
	path, err := repositoryPath(repository)
	if err != nil {
		return nil, &Error{What: "list the deployments", Message: err.Error(), Err: err}
	}
	query := url.Values{"environment": {environment}, "per_page": {"100"}}
	if commit != "" {
		query.Set("sha", commit)
	}
	var found []Deployment
	_, err = c.do(ctx, request{
		what: "list the deployments of " + repository, needs: "deployments=read", method: http.MethodGet,
		path: path + "/deployments?" + query.Encode(), repository: repository, into: &found,
	})
	return found, err
}

// repositoryPath is the path of "owner/name". The name may be of a sender's choosing.
func repositoryPath(repository string) (string, error) {
	owner, name, ok := strings.Cut(repository, "/")
	for _, part := range []string{owner, name} {
		ok = ok && part != "" && part != "." && part != ".." && !strings.Contains(part, "/")
	}
	if !ok {
		return "", fmt.Errorf("%q is not of the form \"owner/name\"", oneLine(repository))
	}
	return "/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name), nil
}
