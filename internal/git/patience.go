package git

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// DefaultPatience is how long a patient Repo should wait for a remote that is late or
// away: a webhook comes before its commit can be fetched, a server restarts.
const DefaultPatience = time.Minute

// Patient returns the same Repo, except that it asks its remote again, with
// growing pauses, where the answer may be another in a moment, and tells why each
// time. It gives up once it has been patient for so long.
func (r *Repo) Patient(patience time.Duration, tell func(why string)) *Repo {
	patient := *r
	patient.patience, patient.tell = patience, tell
	return &patient
}

// patiently calls ask until it succeeds, or fails in a way that does not pass. It is no
// retry.Outage: the run log has a line for each try, which tells when the next one is, and
// the pauses are longer, since the remote is others' machine.
func (r *Repo) patiently(ctx context.Context, passing func(error) bool, ask func() error) error {
	pause := r.patience / 120
	var since time.Time
	for tries := 1; ; tries++ {
		err := ask()
		if err == nil || r.patience == 0 || !passing(err) {
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		waited := time.Since(since)
		if waited >= r.patience {
			return fmt.Errorf("%w (asked %d times within %s)", err, tries, waited.Round(time.Second))
		}
		pause = min(pause, r.patience-waited)
		if ctx.Err() == nil {
			r.tell(fmt.Sprintf("%v; asking again in %s", err, pause.Round(time.Millisecond)))
		}
		if !retry.Sleep(ctx, pause) {
			// Only as text: that git failed is not why this ends.
			return fmt.Errorf("%w, while the remote was asked again: %s", context.Cause(ctx), err.Error())
		}
		pause = min(2*pause, r.patience/4)
	}
}

// passes says whether what the remote answered may be another answer soon.
func passes(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && exitCode(err) > 0 && !e.lasting
}

// lasting are the answers that asking again does not change: refusals, and what
// is wrong on this host.
var lasting = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`(error:|http code|response) 4(0[0-79]|1\d|2[0-8]|[3-9]\d)\b`, // but timeout (408) and too many requests (429)
	`authentication failed`, `could not read (username|password)`, `access denied`, `permission denied`, `unauthorized`,
	`too many authentication failures`, `invalid (username|credentials)`,
	`repository\b.* not found`, `(project|repository)\b.* could not be found`, `does not exist`, `not exported`,
	`does not appear to be a git repository`, `dubious ownership`,
	`host key verification failed`, `no matching (host key|key exchange|cipher|mac)`, `bad (configuration option|owner or permissions)`,
	`certificate`, `unable to find remote helper`, `is not a git command`, `no (url|submodule mapping) found`, `transport '.*' not allowed`, `cannot run `,
	`no space left on device`, `disk quota exceeded`, `read-only file system`,
}, "|"))

// isMissing says that the remote has not what was asked for: a branch or a commit.
func isMissing(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (strings.Contains(e.Message, "couldn't find remote ref") ||
		strings.Contains(e.Message, "not our ref") || strings.Contains(e.Message, "unadvertised object"))
}

// isInTheWay says that the ref of a branch could not be written because of another's.
func isInTheWay(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && strings.Contains(e.Message, "some local refs could not be updated")
}

// lowSpeed ends a connection that has stalled, where git's own configuration has
// no limits.
var lowSpeed = [...][2]string{{"http.lowSpeedLimit", "1000"}, {"http.lowSpeedTime", "60"}}

// contact is r for a git that talks to the remote.
func (r *Repo) contact(ctx context.Context, dir string) *Repo {
	if !strings.HasPrefix(r.remote, "http") {
		return r
	}
	limited := *r
	for _, kv := range lowSpeed {
		if _, err := r.output(ctx, dir, "config", "--get-urlmatch", kv[0], r.publicRemote()); exitCode(err) == 1 {
			limited.config = append(limited.config, kv)
		}
	}
	return &limited
}
