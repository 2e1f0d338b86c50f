package nginx

import (
	"strings"
	"testing"
	"time"
)

func TestReadRefusal(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		said, kind, detail string
		after              time.Duration // 0 is no time
	}{
		"a limit, whose time is in the detail": {
			"AttributeError: can't set attribute\nacme.messages.Error: urn:ietf:params:acme:error:rateLimited :: There were too many requests of a given type :: too many certificates, retry after 2026-11-27 12:00:00 UTC: see https://x\n",
			"rateLimited", "too many certificates, retry after 2026-11-27 12:00:00 UTC: see https://x", 24 * time.Hour,
		},
		"a limit, whose time is in a header": {
			"HTTP 429\nRetry-After: 7200\n{\n  \"type\": \"urn:ietf:params:acme:error:rateLimited\",\n  \"detail\": \"too many {new} orders\",\n  \"status\": 429\n}\n",
			"rateLimited", "too many {new} orders", 2 * time.Hour,
		},
		"a limit with a date":     {"Retry-After: Thu, 26 Nov 2026 15:00:00 GMT\nurn:ietf:params:acme:error:rateLimited :: a :: b", "rateLimited", "b", 3 * time.Hour},
		"a limit without a time":  {"urn:ietf:params:acme:error:rateLimited :: a :: b", "rateLimited", "b", time.Hour},
		"a limit that is over":    {"Retry-After: -5\nurn:ietf:params:acme:error:rateLimited :: a :: retry after 2020-01-01 00:00:00 UTC", "rateLimited", "retry after 2020-01-01 00:00:00 UTC", time.Hour},
		"a limit for ever":        {"Retry-After: 99999999999\nurn:ietf:params:acme:error:rateLimited :: a :: b", "rateLimited", "b", 30 * 24 * time.Hour},
		"a limit till doomsday":   {"urn:ietf:params:acme:error:rateLimited :: a :: retry after 9999-12-31T00:00:00Z", "rateLimited", "retry after 9999-12-31T00:00:00Z", 30 * 24 * time.Hour},
		"a limit without words":   {"HTTP 429\nacme.messages.Error: urn:ietf:params:acme:error:rateLimited :: There were too many requests :: \nError: x", "rateLimited", "There were too many requests", time.Hour},
		"a limit without detail":  {"HTTP 429\nacme.messages.Error: urn:ietf:params:acme:error:rateLimited :: There were too many requests\nError: x", "rateLimited", "There were too many requests", time.Hour},
		"a name that is rejected": {"urn:ietf:params:acme:error:rejectedIdentifier :: The server will not issue :: Order included an identifier for which issuance is forbidden by policy\nRetry-After: 10", "rejectedIdentifier", "Order included an identifier for which issuance is forbidden by policy", 0},
		"challenges": {
			"  Domain: a.test\n  Type:   unauthorized\n  Detail: returned 403\n\n  Domain: b.test\n  Type:   unauthorized\n  Detail: returned 404\n",
			"unauthorized", "returned 403; returned 404", 0,
		},
		"a CA that is away": {"Traceback\nrequests.exceptions.ConnectionError: Connection refused\nAn unexpected error occurred:\nrequests.Error: x: Connection refused\n", "", "requests.Error: x: Connection refused", 0},
		"nothing":           {"", "", "", 0},
	} {
		got := readRefusal(c.said, now)
		until := time.Duration(0)
		if !got.until.IsZero() {
			until = got.until.Sub(now)
		}
		if got.kind != c.kind || got.detail != c.detail || until != c.after {
			t.Errorf("%s: %+v, want %s: %s, after %v", name, got, c.kind, c.detail, c.after)
		}
	}
	if got := readRefusal("urn:ietf:params:acme:error:x :: a :: "+strings.Repeat("é", 1000), now); len(got.detail) > maxDetail || !strings.HasSuffix(got.detail, "é") {
		t.Errorf("a long detail has %d bytes", len(got.detail))
	}
}

func TestState_RemembersWhatStillHolds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	file := t.TempDir() + "/nginx/x.json"
	s, err := readState(file)
	if err != nil || s.limitFor("a.test", nil, now) != nil {
		t.Errorf("%+v, %v", s, err)
	}
	s.remember(limit{Site: "a.test", Until: now.Add(time.Hour), Why: "old"}, now)
	s.remember(limit{Site: "b.test", Until: now.Add(time.Hour)}, now)
	s.remember(limit{Site: "a.test", Until: now.Add(3 * time.Hour), Why: "new", Names: []string{"a.test"}}, now)
	s.remember(limit{Site: "c.test", Until: now.Add(3 * time.Hour)}, now.Add(2*time.Hour))
	if err := s.write(file); err != nil {
		t.Fatal(err)
	}
	s, err = readState(file)
	names := []string{"a.test"}
	if a := s.limitFor("a.test", names, now); err != nil || len(s.Limits) != 2 || a == nil || a.Why != "new" ||
		s.limitFor("a.test", names, now.Add(4*time.Hour)) != nil || s.limitFor("a.test", []string{"a.test", "b.test"}, now) != nil {
		t.Errorf("%+v, %v", s, err)
	}
	// Names that come and go: what was refused of them holds.
	s.remember(limit{Site: "a.test", Until: now.Add(time.Hour), Names: []string{"a.test", "b.test"}}, now)
	s.remember(limit{Site: "a.test", Until: now.Add(2 * time.Hour), Why: "newer", Names: names}, now)
	if a := s.limitFor("a.test", names, now); len(s.Limits) != 3 || a == nil || a.Why != "newer" || s.limitFor("a.test", []string{"a.test", "b.test"}, now) == nil {
		t.Errorf("%+v", s)
	}
}
