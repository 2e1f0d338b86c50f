package daemon

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/dashboard"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// post sends a form to the dashboard of a daemon that is ready.
func (s *site) post(d *daemon, path string, form url.Values, cookie *http.Cookie) *http.Response {
	s.t.Helper()
	s.becomes(d, http.StatusOK, "")
	addr := adminAddr.FindStringSubmatch(d.out.String())[1]
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+addr+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if cookie != nil {
		req.AddCookie(cookie)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther {
		s.t.Fatalf("%s answers %s: %s\n%s", path, resp.Status, body, d.out)
	}
	return resp
}

func TestDashboard_SessionOutlastsARestart(t *testing.T) {
	t.Parallel()
	dsn := pgtest.MigratedDSN(t)
	s := newSite(t, dsn, "")
	logins := dashboard.Logins{Pool: pgtest.Pool(t, dsn), Instance: "test"}
	token, err := logins.NewToken(t.Context(), "alex")
	if err != nil {
		t.Fatal(err)
	}
	d := s.run(false, true)
	cookie := s.post(d, "/login", url.Values{"token": {token}}, nil).Cookies()[0]
	to, err := s.post(d, "/deployments/web/deploy", nil, cookie).Location()
	if err != nil {
		t.Fatal(err)
	}
	s.expectDeployed(d, to.Query().Get("delivery"))
	s.mustStop(d)
	d = s.run(false, true)
	s.post(d, "/deployments/web/freeze", url.Values{"reason": {"because"}}, cookie)
	s.mustStop(d)
	log := eventlog.Open(logins.Pool, quiet)
	defer log.Close()
	for e, err := range log.Find(t.Context(), eventlog.Filter{Types: []eventlog.Type{eventlog.TypeReceived, eventlog.TypeFrozen}}) {
		if err != nil || e.Actor != "alex" {
			t.Errorf("%s is by %q: %v", e.Type, e.Actor, err)
		}
	}
	if strings.Contains(d.out.String(), cookie.Value) || strings.Contains(d.out.String(), token) {
		t.Error("a secret is in the daemon's log")
	}
}
