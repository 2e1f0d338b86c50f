package github

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// Error is why GitHub did not do what was asked. Its text never has a token in it.
type Error struct {
	// What was asked, as in "create a commit status of octo/web".
	What string
	// Status is the answer's; 0 where there was none.
	Status int
	// Message is GitHub's, or says why there was no answer.
	Message string
	// Temporary says that the same may be asked again, not before RetryAt, which is zero
	// where nobody says when. Anything else is refused until a person changes something.
	Temporary bool
	RetryAt   time.Time
	// Needs is the permission that is missing, or may be, in the words of GitHub's pages;
	// empty where none is to blame.
	Needs string
	// ClockAhead is how far this machine's clock is ahead of GitHub's, where that may be
	// why the App was refused.
	ClockAhead time.Duration
	// Err is what kept the question from being asked or answered.
	Err error
}

// Error renders "what: GitHub answers 403: message; advice".
func (e *Error) Error() string {
	return e.What + ": " + e.Reason()
}

// Reason is what kept it from being done, and what to do, whatever it was.
func (e *Error) Reason() string {
	text := ""
	if e.Status != 0 {
		text += fmt.Sprintf("GitHub answers %d: ", e.Status)
	}
	text += e.Message
	if advice := e.Advice(); advice != "" {
		text += "; " + advice
	}
	return text
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Advice says what a person can do; "" for what passes by itself.
func (e *Error) Advice() string {
	switch {
	case e.Temporary:
		return ""
	case e.ClockAhead > 0:
		return fmt.Sprintf("this machine's clock is %s ahead of GitHub's: set it (timedatectl)", e.ClockAhead)
	case e.ClockAhead < 0:
		return fmt.Sprintf("this machine's clock is %s behind GitHub's: set it (timedatectl)", -e.ClockAhead)
	case e.Status == http.StatusUnauthorized:
		return "the credentials are wrong, expired or revoked: put good ones into the files of [github]"
	case e.Status == http.StatusForbidden && e.Needs != "":
		return "it needs the permission " + e.Needs
	case e.Status == http.StatusNotFound && e.Needs != "":
		return "either it is not there, or it may not be seen: that takes access to the repository, and the permission " + e.Needs
	case e.Status >= 300 && e.Status < 400:
		return "a repository that was renamed or moved has another name now: change it in the configuration, and api_url where that is to blame"
	}
	return ""
}

// ToWrite makes what is missing that for writing: for what is asked only to write then.
func (e *Error) ToWrite() { e.Needs = strings.ReplaceAll(e.Needs, "(read)", "(read and write)") }

// permissions are the names of GitHub's pages for those of its headers.
var permissions = map[string]string{
	"administration":      "Administration",
	"contents":            "Contents",
	"deployments":         "Deployments",
	"metadata":            "Metadata",
	"organization_hooks":  "Webhooks of the organization",
	"repository_hooks":    "Webhooks",
	"statuses":            "Commit statuses",
	"organization_events": "Events of the organization",
}

// permission puts what X-Accepted-GitHub-Permissions says into words: sets are apart
// by semicolons, any of which will do, and what is in one by commas.
func permission(accepted string) string {
	var sets []string
	for set := range strings.SplitSeq(accepted, ";") {
		var all []string
		for one := range strings.SplitSeq(set, ",") {
			name, access, _ := strings.Cut(strings.TrimSpace(one), "=")
			if name == "" {
				continue
			}
			if known := permissions[name]; known != "" {
				name = known
			}
			if access == "write" {
				access = "read and write"
			}
			all = append(all, fmt.Sprintf("%q (%s)", oneLine(name), oneLine(access)))
		}
		if len(all) > 0 {
			sets = append(sets, strings.Join(all, " and "))
		}
	}
	return strings.Join(sets, ", or ")
}

// maxMessage bounds what is kept of GitHub's words, in bytes.
const maxMessage = 300

// oneLine makes text from outside a short line that does nothing to a terminal.
func oneLine(s string) string {
	return words.Cut(words.OneLine(s), maxMessage, "...")
}
