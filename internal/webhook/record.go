package webhook

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// record is what the log line of a request tells, beside the request itself.
type record struct {
	answer
	level    slog.Level // at least this
	bytes    int64      // of the body, as far as it was read
	delivery string
	event    string
	entry    string
	err      error
}

// logRequest writes the request's one line. It holds nothing of the body, the
// query or the signature, and what the sender chose is made printable first.
func (h *Handler) logRequest(r *http.Request, rec record, took time.Duration) {
	level := rec.level
	if rec.reason != "" {
		level = max(level, slog.LevelWarn)
	}
	ctx := context.WithoutCancel(r.Context())
	if !h.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs,
		slog.String("method", printable(r.Method, 16)),
		slog.String("path", printable(r.URL.Path, 128)),
		slog.Int("status", rec.status),
		slog.String("client", clientAddress(r, h.proxies.XFor)),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000))
	if h.proxies.XProto > 0 {
		attrs = append(attrs, slog.String("scheme", clientScheme(r, h.proxies.XProto)))
	}
	if rec.bytes > 0 {
		attrs = append(attrs, slog.Int64("bytes", rec.bytes))
	}
	for _, a := range [...]struct{ key, value string }{
		{"delivery", rec.delivery}, {"event", rec.event}, {"entry", rec.entry}, {"reason", rec.reason},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, a.value))
		}
	}
	// What the sender says that it is: a way to find it at GitHub, and no more.
	if claimed, ok := single(r.Header, "X-Github-Delivery"); ok && rec.reason != "" && rec.delivery == "" {
		attrs = append(attrs, slog.String("unverified_delivery", printable(claimed, 64)))
	}
	if rec.err != nil {
		attrs = append(attrs, slog.String("error", printable(rec.err.Error(), 512)))
	}
	h.log.LogAttrs(ctx, level, "request", attrs...)
}

// clientAddress is the address of the sender without its port. With trusted
// proxies in front it is the entry of X-Forwarded-For that the outermost of them
// added, counted from the right: what is left of it the sender may have invented.
// (The rule of werkzeug's ProxyFix; when there are fewer entries than proxies,
// or the entry is no address, the peer's own address stands.)
func clientAddress(r *http.Request, trusted int) string {
	if v, ok := nthFromRight(r.Header["X-Forwarded-For"], trusted); ok {
		if host, _, err := net.SplitHostPort(v); err == nil {
			v = host
		}
		if a, err := netip.ParseAddr(strings.Trim(v, "[]")); err == nil && len(a.Zone()) <= 16 {
			return printable(a.String(), 64)
		}
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return printable(host, 64)
	}
	return printable(r.RemoteAddr, 64) // a unix socket has no host
}

// clientScheme is the scheme that the sender used, by the same rule.
func clientScheme(r *http.Request, trusted int) string {
	if v, ok := nthFromRight(r.Header["X-Forwarded-Proto"], trusted); ok {
		return printable(v, 8)
	}
	return "http"
}

// nthFromRight returns the nth entry from the right of a comma-separated header
// that may be spread over several lines.
func nthFromRight(lines []string, n int) (string, bool) {
	if n <= 0 {
		return "", false
	}
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for {
			cut := strings.LastIndexByte(rest, ',')
			if n--; n == 0 {
				v := strings.Trim(strings.TrimSpace(rest[cut+1:]), `"`)
				return v, v != ""
			}
			if cut < 0 {
				break
			}
			rest = rest[:cut]
		}
	}
	return "", false
}

// printable returns s in printable ASCII, at most about limit bytes of it.
// Everything else is escaped as in Go source, so that no line of a log and no
// terminal is ever steered by a sender.
func printable(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			q := strconv.QuoteToASCII(s)
			s = q[1 : len(q)-1]
			break
		}
	}
	if cut {
		s += "..."
	}
	return s
}
