package nginx

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// refusal is why there is no certificate, as far as certbot's output and log tell.
type refusal struct {
	// kind is the CA's type of error ("rateLimited"); empty where the CA did not answer.
	kind   string
	detail string
	// until is when the CA may be asked again; zero where it did not say.
	until time.Time
}

func (r refusal) String() string {
	text := cmp.Or(r.detail, "certbot does not say why; see letsencrypt.log")
	if r.kind != "" {
		text = r.kind + ": " + text
	}
	if !r.until.IsZero() {
		text += " (not before " + r.until.UTC().Format(time.RFC3339) + ")"
	}
	return text
}

// limited says that asking again before until only makes it worse.
func (r refusal) limited() bool { return r.kind == rateLimited }

const (
	rateLimited = "rateLimited"
	acmeErrors  = "urn:ietf:params:acme:error:"
	// maxLimit bounds how long a limit is believed.
	maxLimit = 30 * 24 * time.Hour
	// maxDetail bounds what an event holds of the CA's words, in bytes.
	maxDetail = 1000
)

var (
	// acmeError is how certbot writes the CA's answer: type, our CA library's words, and the
	// CA's, if it had any.
	acmeError = regexp.MustCompile(`(?m)` + acmeErrors + `(\w+) :: ([^:\n]*?)(?: ::(.*))?$`)
	// challenge is how it writes that a challenge failed.
	challenge = regexp.MustCompile(`(?m)^\s*Type:\s*(\w+)\s*\n\s*Detail:\s*(.+)$`)
	retryIn   = regexp.MustCompile(`(?mi)^\s*Retry-After:\s*(.+?)\s*$`)
	retryAt   = regexp.MustCompile(`(?i)retry after (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d) ?(?:UTC|Z)`)
	// anyError is the last resort: certbot's own last words.
	anyError = regexp.MustCompile(`(?mi)^.*\berror\b.*$`)
)

// readRefusal finds the CA's answer in what certbot said, and in what root found in its log.
func readRefusal(said string, now time.Time) refusal {
	var r refusal
	if m := last(acmeError.FindAllStringSubmatch(said, -1)); m != nil {
		r.kind, r.detail = m[1], cmp.Or(strings.TrimSpace(m[3]), m[2])
	} else if kind, detail := problem(said); kind != "" {
		r.kind, r.detail = kind, detail
	} else if all := challenge.FindAllStringSubmatch(said, -1); all != nil {
		r.kind = all[0][1]
		var details []string
		for _, m := range all {
			details = append(details, m[2])
		}
		r.detail = strings.Join(unique(details), "; ")
	} else if m := last(anyError.FindAllStringSubmatch(said, -1)); m != nil {
		r.detail = strings.TrimSpace(m[0])
	}
	r.detail = words.Cut(strings.ToValidUTF8(r.detail, ""), maxDetail, "")
	if !r.limited() {
		return r
	}
	r.until = now.Add(time.Hour) // at least
	later := func(t time.Time) {
		if most := now.Add(maxLimit); t.After(most) {
			t = most
		}
		if t.After(r.until) {
			r.until = t
		}
	}
	if m := last(retryIn.FindAllStringSubmatch(said, -1)); m != nil {
		if seconds, err := strconv.Atoi(m[1]); err == nil {
			later(now.Add(time.Duration(min(max(seconds, 0), int(maxLimit/time.Second))) * time.Second))
		} else if t, err := http.ParseTime(m[1]); err == nil {
			later(t)
		}
	}
	if m := last(retryAt.FindAllStringSubmatch(said, -1)); m != nil {
		if t, err := time.Parse(time.DateTime, m[1]+" "+m[2]); err == nil {
			later(t)
		}
	}
	return r
}

func last(all [][]string) []string {
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// problem finds the CA's document, which the log has as it came.
func problem(said string) (kind, detail string) {
	for rest := said; ; {
		i := strings.Index(rest, "{")
		if i < 0 {
			return kind, detail
		}
		rest = rest[i:]
		var p struct{ Type, Detail string }
		if json.NewDecoder(strings.NewReader(rest)).Decode(&p) == nil && strings.HasPrefix(p.Type, acmeErrors) {
			kind, detail = strings.TrimPrefix(p.Type, acmeErrors), p.Detail
		}
		rest = rest[1:]
	}
}

// limitFor is the CA's refusal that still holds for a site with these names.
func (s state) limitFor(site string, hosts []string, now time.Time) *limit {
	for i, l := range s.Limits {
		if l.Site == site && slices.Equal(l.Names, hosts) && now.Before(l.Until) {
			return &s.Limits[i]
		}
	}
	return nil
}

// remember keeps a limit, and forgets those that are over.
func (s *state) remember(l limit, now time.Time) {
	kept := []limit{l}
	for _, old := range s.Limits {
		if (old.Site != l.Site || !slices.Equal(old.Names, l.Names)) && now.Before(old.Until) {
			kept = append(kept, old)
		}
	}
	s.Limits = kept
}

func (l limit) String() string {
	return fmt.Sprintf("the CA said %q; it is not asked again before %s", l.Why, l.Until.UTC().Format(time.RFC3339))
}
