// Package githubtest stands in for GitHub: it speaks the protocol of its API over HTTP,
// with the shapes of its answers, and sends signed webhooks. It records what it was
// asked, and can be told to fail in the ways that GitHub does.
package githubtest

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Token is the one that a new server knows, with every permission.
const Token = "github_pat_11AAAAAAA0stand1in2for3github" //nolint:gosec // G101: GitHub would not take it

// AppID is the only App's.
const AppID = 4711

// Server is the stand-in. Its fields are set before Start.
type Server struct {
	// Key is the App's; nil is no App, and no installation.
	Key *rsa.PublicKey
	// Limit is how many requests an hour has; 0 is 5000.
	Limit int
	// PageSize is what a page has at most, whatever is asked for; 0 is GitHub's 100.
	PageSize int
	// Now is the clock; nil is time.Now.
	Now func() time.Time

	listener net.Listener
	http     *http.Server
	client   *http.Client
	work     sync.WaitGroup
	attempts sync.WaitGroup // that were asked for
	ctx      context.Context
	stop     context.CancelFunc

	mu          sync.Mutex
	tokens      map[string]grant
	requests    []Request
	failures    []*Failure
	used        int
	reset       time.Time
	statuses    []Status
	deployments []*Deployment
	hooks       map[int64]*Hook
	last        int64
}

// grant is what a token may do.
type grant struct {
	permissions map[string]string
	expires     time.Time // zero is never
}

// Request is what somebody asked.
type Request struct {
	Method, Path string
	Header       http.Header
	Body         string
	// Status is that of the answer; 0 where there was none.
	Status int
}

// Failure is how the server answers instead of what it should.
type Failure struct {
	// Method and Path choose the requests; Path is a regular expression, and empty is any.
	Method, Path string
	// Times is how often; 0 is until Heal.
	Times int
	// Status, Header and Body are the answer. Silent is none: the request is read, and
	// nothing comes back. Lost does what was asked, and then closes the connection.
	Status int
	Header map[string]string
	Body   string
	Silent bool
	Lost   bool
}

// SecondaryLimit is how GitHub refuses those who ask too fast.
func SecondaryLimit(retryAfter int) Failure {
	f := Failure{Status: http.StatusForbidden, Body: `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.","documentation_url":"https://docs.github.com/free-pro-team@latest/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`}
	if retryAfter > 0 {
		f.Header = map[string]string{"Retry-After": strconv.Itoa(retryAfter)}
	}
	return f
}

// Status is a commit status that was created.
type Status struct {
	Repository  string `json:"-"`
	SHA         string `json:"-"`
	ID          int64  `json:"id"`
	State       string `json:"state"`
	TargetURL   string `json:"target_url"`
	Description string `json:"description"`
	Context     string `json:"context"`
}

// Deployment is one that was created, with its statuses, the newest last.
type Deployment struct {
	Repository  string             `json:"-"`
	ID          int64              `json:"id"`
	SHA         string             `json:"sha"`
	Ref         string             `json:"ref"`
	Environment string             `json:"environment"`
	Description string             `json:"description"`
	Statuses    []DeploymentStatus `json:"-"`
}

// DeploymentStatus is how far a deployment was said to be.
type DeploymentStatus struct {
	ID             int64  `json:"id"`
	State          string `json:"state"`
	LogURL         string `json:"log_url"`
	Description    string `json:"description"`
	EnvironmentURL string `json:"environment_url"`
	AutoInactive   *bool  `json:"auto_inactive,omitempty"`
}

// Start serves on an address, as in "127.0.0.1:0", until Close.
func (s *Server) Start(addr string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	s.listener = l
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.tokens, s.hooks = map[string]grant{Token: {permissions: all}}, map[int64]*Hook{}
	s.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.work.Go(func() { _ = s.http.Serve(l) })
	return nil
}

var all = map[string]string{
	"statuses": "write", "deployments": "write", "repository_hooks": "write", "organization_hooks": "write", "metadata": "read",
}

// URL is the root of the API.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close ends the server and what it still sends.
func (s *Server) Close() {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.http.Shutdown(ctx) // whose handlers may still begin an attempt
	_ = s.http.Close()
	s.attempts.Wait()
	s.work.Wait()
}

// Grant makes a token valid with these permissions, as in {"statuses": "write"}; nil is
// all of them.
func (s *Server) Grant(token string, permissions map[string]string) {
	if permissions == nil {
		permissions = all
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = grant{permissions: permissions}
}

// Revoke makes every token invalid, those of installations included.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Fail has requests answered like that, until they were as often as it says, or Heal.
func (s *Server) Fail(f Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, &f)
}

// Heal ends all failures.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = nil
}

// Requests are all that came.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Statuses are those that were created, in order.
func (s *Server) Statuses() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.statuses)
}

// Deployments are those that were created, in order, with their statuses.
func (s *Server) Deployments() []Deployment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Deployment
	for _, d := range s.deployments {
		one := *d
		one.Statuses = slices.Clone(d.Statuses)
		out = append(out, one)
	}
	return out
}

func (s *Server) id() int64 {
	s.last++
	return 9000000000 + s.last
}

// reply is an answer before it is written.
type reply struct {
	status int
	header http.Header
	body   any
}

func fault(status int, message string) reply {
	return reply{status: status, body: map[string]any{
		"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status),
	}}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	i := len(s.requests)
	s.requests = append(s.requests, Request{Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header.Clone(), Body: string(body)})
	failure := s.failure(r)
	s.mu.Unlock()
	var a reply
	switch {
	case failure != nil && failure.Silent:
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		return
	case failure != nil && !failure.Lost:
		a = reply{status: failure.Status, header: http.Header{}, body: json.RawMessage(failure.Body)}
		for name, value := range failure.Header {
			a.header.Set(name, value)
		}
	default:
		a = s.answer(r, body)
	}
	if failure != nil && failure.Lost {
		panic(http.ErrAbortHandler)
	}
	s.write(w, r, i, a)
}

func (s *Server) failure(r *http.Request) *Failure {
	for i, f := range s.failures {
		if f.Method != "" && f.Method != r.Method {
			continue
		}
		if matched, err := regexp.MatchString(f.Path, r.URL.Path); err != nil || !matched {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.failures = slices.Delete(s.failures, i, i+1)
			}
		}
		return f
	}
	return nil
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, i int, a reply) {
	content, err := json.Marshal(a.body)
	if raw, ok := a.body.(json.RawMessage); ok {
		content, err = raw, nil
	}
	if err != nil {
		panic(err) // it is ours
	}
	h := w.Header()
	maps.Copy(h, a.header)
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-GitHub-Media-Type", "github.v3; format=json")
	if r.Method == http.MethodGet && a.status == http.StatusOK {
		etag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(content))
		h.Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			a.status = http.StatusNotModified
		}
	}
	s.mu.Lock()
	if a.status != http.StatusNotModified {
		s.used++
	}
	s.requests[i].Status = a.status
	limit := s.limit()
	if _, set := h["X-Ratelimit-Remaining"]; !set {
		h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
		h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, limit-s.used)))
		h.Set("X-RateLimit-Used", strconv.Itoa(s.used))
		h.Set("X-RateLimit-Reset", strconv.FormatInt(s.reset.Unix(), 10))
		h.Set("X-RateLimit-Resource", "core")
	}
	s.mu.Unlock()
	w.WriteHeader(a.status)
	if a.status != http.StatusNotModified && a.status != http.StatusNoContent {
		_, _ = w.Write(content)
	}
}

// limit begins a new hour where the last one is over.
func (s *Server) limit() int {
	if now := s.Now(); now.After(s.reset) {
		s.used, s.reset = 0, now.Add(time.Hour).Truncate(time.Second)
	}
	if s.Limit > 0 {
		return s.Limit
	}
	return 5000
}

// route is an endpoint.
type route struct {
	method  string
	path    *regexp.Regexp
	needs   string // as GitHub's header says it; "app" is the App itself
	answers func(s *Server, r *http.Request, m []string, body []byte) reply
}

var routes = []route{
	{"POST", at(`/repos/([^/]+/[^/]+)/statuses/([^/]+)`), "statuses=write", (*Server).createStatus},
	{"GET", at(`/repos/([^/]+/[^/]+)/commits/([^/]+)/statuses`), "statuses=read", (*Server).listStatuses},
	{"POST", at(`/repos/([^/]+/[^/]+)/deployments`), "deployments=write", (*Server).createDeployment},
	{"GET", at(`/repos/([^/]+/[^/]+)/deployments`), "deployments=read", (*Server).listDeployments},
	{"POST", at(`/repos/([^/]+/[^/]+)/deployments/(\d+)/statuses`), "deployments=write", (*Server).createDeploymentStatus},
	{"GET", at(`/(repos/[^/]+/[^/]+)/hooks/(\d+)/deliveries`), "repository_hooks=read", (*Server).listDeliveries},
	{"GET", at(`/(orgs/[^/]+)/hooks/(\d+)/deliveries`), "organization_hooks=read", (*Server).listDeliveries},
	{"GET", at(`/(app)/hook/deliveries`), "app", (*Server).listDeliveries},
	{"GET", at(`/(repos/[^/]+/[^/]+)/hooks/(\d+)/deliveries/(\d+)`), "repository_hooks=read", (*Server).delivery},
	{"GET", at(`/(orgs/[^/]+)/hooks/(\d+)/deliveries/(\d+)`), "organization_hooks=read", (*Server).delivery},
	{"GET", at(`/(app)/hook/deliveries/(\d+)`), "app", (*Server).delivery},
	{"POST", at(`/(repos/[^/]+/[^/]+)/hooks/(\d+)/deliveries/(\d+)/attempts`), "repository_hooks=write", (*Server).attempt},
	{"POST", at(`/(orgs/[^/]+)/hooks/(\d+)/deliveries/(\d+)/attempts`), "organization_hooks=write", (*Server).attempt},
	{"POST", at(`/(app)/hook/deliveries/(\d+)/attempts`), "app", (*Server).attempt},
	{"GET", at(`/repos/([^/]+/[^/]+)/installation`), "app", (*Server).installation},
	{"POST", at(`/app/installations/(\d+)/access_tokens`), "app", (*Server).accessToken},
}

func at(pattern string) *regexp.Regexp { return regexp.MustCompile(`\A` + pattern + `\z`) }

// answer does what is asked, if whoever asks may.
func (s *Server) answer(r *http.Request, body []byte) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit() <= s.used {
		return fault(http.StatusForbidden, "API rate limit exceeded for installation ID 1.")
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return fault(http.StatusUnauthorized, "Requires authentication")
	}
	if r.Header.Get("User-Agent") == "" {
		return fault(http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.")
	}
	for _, rt := range routes {
		m := rt.path.FindStringSubmatch(r.URL.Path)
		if m == nil || rt.method != r.Method {
			continue
		}
		if rt.needs == "app" {
			if err := s.verify(token); err != nil {
				return fault(http.StatusUnauthorized, err.Error())
			}
			return rt.answers(s, r, m[1:], body)
		}
		g, known := s.tokens[token]
		if !known || !g.expires.IsZero() && !s.Now().Before(g.expires) {
			return fault(http.StatusUnauthorized, "Bad credentials")
		}
		name, access, _ := strings.Cut(rt.needs, "=")
		if has := g.permissions[name]; has != "write" && has != access {
			a := fault(http.StatusForbidden, "Resource not accessible by personal access token")
			a.header = http.Header{"X-Accepted-Github-Permissions": {rt.needs}}
			return a
		}
		a := rt.answers(s, r, m[1:], body)
		if a.header == nil {
			a.header = http.Header{}
		}
		a.header.Set("X-Accepted-GitHub-Permissions", rt.needs)
		return a
	}
	return fault(http.StatusNotFound, "Not Found")
}

var hash = at(`[0-9a-f]{40}|[0-9a-f]{64}`)

func exists(commit string) bool { return hash.MatchString(commit) && strings.Trim(commit, "0") != "" }

func (s *Server) createStatus(_ *http.Request, m []string, body []byte) reply {
	st := Status{Repository: m[0], SHA: m[1]}
	if json.Unmarshal(body, &st) != nil {
		return fault(http.StatusBadRequest, "Problems parsing JSON")
	}
	switch {
	case !exists(st.SHA):
		return fault(http.StatusUnprocessableEntity, "No commit found for SHA: "+st.SHA)
	case !slices.Contains([]string{"pending", "success", "failure", "error"}, st.State):
		return fault(http.StatusUnprocessableEntity, "Validation Failed")
	case len([]rune(st.Description)) > 140:
		return reply{status: http.StatusUnprocessableEntity, body: map[string]any{
			"message": "Validation Failed",
			"errors":  []any{map[string]string{"resource": "Status", "code": "custom", "message": "description is too long (maximum is 140 characters)"}},
		}}
	}
	st.ID = s.id()
	s.statuses = append(s.statuses, st)
	return reply{status: http.StatusCreated, body: st}
}

func (s *Server) listStatuses(_ *http.Request, m []string, _ []byte) reply {
	found := []Status{}
	for _, st := range slices.Backward(s.statuses) {
		if strings.EqualFold(st.Repository, m[0]) && st.SHA == m[1] {
			found = append(found, st)
		}
	}
	return reply{status: http.StatusOK, body: found}
}

func (s *Server) createDeployment(_ *http.Request, m []string, body []byte) reply {
	var asked struct {
		Deployment
		AutoMerge        *bool     `json:"auto_merge"`
		RequiredContexts *[]string `json:"required_contexts"`
	}
	if json.Unmarshal(body, &asked) != nil {
		return fault(http.StatusBadRequest, "Problems parsing JSON")
	}
	switch {
	case !exists(asked.Ref):
		return fault(http.StatusUnprocessableEntity, "No ref found for: "+asked.Ref)
	case asked.AutoMerge == nil || *asked.AutoMerge, asked.RequiredContexts == nil || len(*asked.RequiredContexts) > 0:
		return fault(http.StatusConflict, "Conflict: Commit status checks failed for "+asked.Ref+".")
	}
	d := asked.Deployment
	d.ID, d.Repository, d.SHA = s.id(), m[0], d.Ref
	s.deployments = append(s.deployments, &d)
	return reply{status: http.StatusCreated, body: d}
}

func (s *Server) listDeployments(r *http.Request, m []string, _ []byte) reply {
	q := r.URL.Query()
	found := []*Deployment{}
	for _, d := range slices.Backward(s.deployments) {
		if strings.EqualFold(d.Repository, m[0]) && (q.Get("sha") == "" || q.Get("sha") == d.SHA) && (q.Get("environment") == "" || q.Get("environment") == d.Environment) {
			found = append(found, d)
		}
	}
	return reply{status: http.StatusOK, body: found}
}

func (s *Server) createDeploymentStatus(_ *http.Request, m []string, body []byte) reply {
	i := slices.IndexFunc(s.deployments, func(d *Deployment) bool {
		return strings.EqualFold(d.Repository, m[0]) && strconv.FormatInt(d.ID, 10) == m[1]
	})
	if i < 0 {
		return fault(http.StatusNotFound, "Not Found")
	}
	var st DeploymentStatus
	if json.Unmarshal(body, &st) != nil {
		return fault(http.StatusBadRequest, "Problems parsing JSON")
	}
	if !slices.Contains([]string{"pending", "success", "failure", "error", "queued", "in_progress", "inactive"}, st.State) || len([]rune(st.Description)) > 140 {
		return fault(http.StatusUnprocessableEntity, "Validation Failed")
	}
	st.ID = s.id()
	d := s.deployments[i]
	d.Statuses = append(d.Statuses, st)
	if st.State == "success" && (st.AutoInactive == nil || *st.AutoInactive) {
		for _, other := range s.deployments[:i] {
			if n := len(other.Statuses); strings.EqualFold(other.Repository, d.Repository) && other.Environment == d.Environment && n > 0 && other.Statuses[n-1].State == "success" {
				other.Statuses = append(other.Statuses, DeploymentStatus{ID: s.id(), State: "inactive"})
			}
		}
	}
	return reply{status: http.StatusCreated, body: st}
}

// installationID is the App's only installation: on every repository, if there is an App.
const installationID = 51234

func (s *Server) installation(*http.Request, []string, []byte) reply {
	return reply{status: http.StatusOK, body: map[string]any{"id": installationID, "app_id": AppID, "permissions": all, "target_type": "Organization", "repository_selection": "all"}}
}

func (s *Server) accessToken(_ *http.Request, m []string, _ []byte) reply {
	if m[0] != strconv.Itoa(installationID) {
		return fault(http.StatusNotFound, "Not Found")
	}
	token := fmt.Sprintf("ghs_stand1in2installation%d", s.id())
	expires := s.Now().Add(time.Hour)
	s.tokens[token] = grant{all, expires}
	return reply{status: http.StatusCreated, body: map[string]any{"token": token, "expires_at": expires.UTC().Format(time.RFC3339), "permissions": all}}
}

// verify checks a JWT as GitHub does.
func (s *Server) verify(token string) error {
	parts := strings.Split(token, ".")
	if s.Key == nil || len(parts) != 3 {
		return errors.New("A JSON web token could not be decoded") //nolint:staticcheck // ST1005: GitHub's own words
	}
	decode := base64.RawURLEncoding.DecodeString
	head, err1 := decode(parts[0])
	claims, err2 := decode(parts[1])
	signature, err3 := decode(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	var h struct{ Alg string }
	var c struct {
		Iss      string
		Iat, Exp int64
	}
	if errors.Join(err1, err2, err3, json.Unmarshal(head, &h), json.Unmarshal(claims, &c)) != nil || h.Alg != "RS256" || rsa.VerifyPKCS1v15(s.Key, crypto.SHA256, sum[:], signature) != nil {
		return errors.New("A JSON web token could not be decoded") //nolint:staticcheck // ST1005: GitHub's own words
	}
	now := s.Now().Unix()
	switch {
	case c.Iss != strconv.Itoa(AppID):
		return errors.New("Integration not found") //nolint:staticcheck // ST1005: GitHub's own words
	case c.Iat > now:
		return errors.New("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
	case c.Exp <= now || c.Exp > now+600:
		return errors.New("'Expiration time' claim ('exp') is too far in the future")
	}
	return nil
}

// sign is the X-Hub-Signature-256 of a body.
func sign(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
