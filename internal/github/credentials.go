package github

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	// renewBefore is how long before its end an installation's token is replaced.
	renewBefore = 5 * time.Minute
	// The App's own token may be valid for ten minutes, by GitHub's clock; it is made
	// for less, and begins earlier, for clocks that differ.
	jwtFor   = 8 * time.Minute
	jwtSince = time.Minute
)

type installationToken struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// credentials are the token for a request, and of which installation it is.
func (c *Client) credentials(ctx context.Context, r request) (as int64, token string, err error) {
	fail := func(err error) (int64, string, error) {
		if e, ok := errors.AsType[*Error](err); ok {
			e.What = r.what + ": " + e.What
			return 0, "", e
		}
		// Whoever puts the file right need not restart anything.
		return 0, "", &Error{What: r.what, Message: err.Error(), Temporary: true, Err: err}
	}
	if c.o.Token != nil {
		token, err = c.o.Token()
		if err == nil && strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			err = errors.New("the token has characters that no token has; write it alone, on one line")
		}
		if err != nil {
			return fail(err)
		}
		return 0, token, nil
	}
	if r.repository == "" {
		token, err = c.jwt()
	} else if as, err = c.installation(ctx, r.repository); err == nil {
		token, err = c.installationToken(ctx, as)
	}
	if err != nil {
		return fail(err)
	}
	return as, token, nil
}

// jwt is the App's own token: RFC 7519, signed with RS256.
func (c *Client) jwt() (string, error) {
	key, err := c.o.Key()
	if err != nil {
		return "", err
	}
	now := c.o.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": fmt.Sprint(c.o.AppID), "iat": now.Add(-jwtSince).Unix(), "exp": now.Add(jwtFor).Unix(),
	})
	if err != nil {
		return "", err
	}
	base := base64.RawURLEncoding
	signed := base.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign with the App's key: %w", err)
	}
	return signed + "." + base.EncodeToString(signature), nil
}

// installation is the App's on the account of a repository.
func (c *Client) installation(ctx context.Context, repository string) (int64, error) {
	name := strings.ToLower(repository)
	c.mu.Lock()
	id := c.installations[name]
	c.mu.Unlock()
	if id != 0 {
		return id, nil
	}
	path, err := repositoryPath(repository)
	if err != nil {
		return 0, err
	}
	var found struct {
		ID int64 `json:"id"`
	}
	_, err = c.do(ctx, request{what: "find the App's installation on " + repository, method: http.MethodGet, path: path + "/installation", into: &found})
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotFound {
		e.Message = "the App is not installed there; install it on the account, with this repository"
	}
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.installations[name] = found.ID
	c.mu.Unlock()
	return found.ID, nil
}

func (c *Client) installationToken(ctx context.Context, installation int64) (string, error) {
	c.mu.Lock()
	t := c.tokens[installation]
	c.mu.Unlock()
	if c.o.Now().Before(t.ExpiresAt.Add(-renewBefore)) {
		return t.Token, nil
	}
	_, err := c.do(ctx, request{
		what: "get a token for the App's installation", method: http.MethodPost,
		path: fmt.Sprintf("/app/installations/%d/access_tokens", installation), into: &t,
	})
	if err != nil {
		c.forget(installation) // it may have been installed again, under another ID
		return "", err
	}
	c.mu.Lock()
	c.tokens[installation] = t
	c.mu.Unlock()
	return t.Token, nil
}

// forget takes an installation, and its token, for gone.
func (c *Client) forget(installation int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tokens, installation)
	for repository, id := range c.installations {
		if id == installation {
			delete(c.installations, repository)
		}
	}
}
