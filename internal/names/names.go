// Package names says what may name a deployment, an instance, a delivery, a
// branch, a commit, a repository, a host and the like, and which names are taken. Names become parts of paths, keys and commands, so
// everything that takes one from outside asks here.
package names

import (
	"strings"
	"unicode/utf8"
)

// MainQueue is the name of the queue that every delivery enters; no deployment
// may have it.
const MainQueue = "main"

// StepFetch and StepCheckout are the steps that come before the configured ones; no
// configured step may have one of these names.
const (
	StepFetch    = "fetch"
	StepCheckout = "checkout"
)

// StepHealth is a step of deployments that have a health check; the others are those of
// deployments that have releases.
const (
	StepHealth = "health"
	StepShared = "shared"
	StepSwitch = "switch"
	StepPrune  = "prune"
)

// PlainRule and DeliveryIDRule say what Plain and DeliveryID take.
const (
	PlainRule      = "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"
	DeliveryIDRule = "1 to 64 letters, digits and hyphens"
)

const (
	digits  = "0123456789"
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	hex     = digits + "abcdef"

	hostLetters = digits + "abcdefghijklmnopqrstuvwxyz-"
)

// of says whether s is from least to most bytes long and only of those characters.
func of(characters, s string, least, most int) bool {
	return len(s) >= least && len(s) <= most && strings.Trim(s, characters) == ""
}

// Plain says whether s can name a file, a directory or a key: it holds no
// separator and does not begin with a dot. The names of instances are plain.
func Plain(s string) bool {
	return of(letters+digits+"_.-", s, 1, 64) && of(letters+digits, s[:1], 1, 1)
}

// Slug says whether s may name a deployment, and so its queue and its lock.
func Slug(s string) bool { return Plain(s) && !strings.EqualFold(s, MainQueue) }

// DeliveryID says whether s may be the ID of a delivery.
func DeliveryID(s string) bool { return of(letters+digits+"-", s, 1, 64) }

// Commit says whether s is a full hash, SHA-1 or SHA-256, as git prints it.
func Commit(s string) bool { return (len(s) == 40 || len(s) == 64) && CommitBeginning(s) }

// CommitBeginning says whether git may take s for the beginning of a hash.
func CommitBeginning(s string) bool { return of(hex, s, 4, 64) }

// Repository says whether s is "owner/name" by GitHub's rules for users, with the
// underscore that managed ones have, and for repositories.
func Repository(s string) bool {
	owner, name, _ := strings.Cut(s, "/")
	return of(letters+digits+"_-", owner, 1, 100) && owner[0] != '-' &&
		of(letters+digits+"_.-", name, 1, 100) && name != "." && name != ".."
}

// Host says whether s is the whole name of a host, in lower case.
func Host(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !of(hostLetters, label, 1, 63) || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return len(s) <= 253 && strings.Contains(s, ".")
}

// Header says whether s may name a header of HTTP, in letters, digits and dashes.
func Header(s string) bool { return of(letters+digits+"-", s, 1, 100) && s[0] != '-' }

// User says whether s is what useradd makes, or what directories of users have beside.
func User(s string) bool {
	return of(letters+digits+"_.@-", s, 1, 256) && of(letters+"_", s[:1], 1, 1)
}

// EventName says whether s may be what GitHub calls an event.
func EventName(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// HookID says whether s may be the number that GitHub gives a webhook.
func HookID(s string) bool { return of(letters+digits+"_-", s, 1, 64) }

// App says whether s may name an app of pm2.
func App(s string) bool {
	return of(letters+digits+"_.@:-", s, 1, 200) && !strings.ContainsAny(s[:1], ".:-")
}

// WrongBranch says what keeps refs/heads/ followed by s from being a ref that git
// accepts (git-check-ref-format(1)) and that JSON can hold, and what to do; ""
// where nothing does. Any such name is safe here, also one that looks like an option.
func WrongBranch(s string) (wrong, suggestion string) {
	switch {
	case s == "":
		return "is empty", ""
	case len(s) > 1024:
		return "is too long", ""
	case s == "@":
		return "is not a branch", "name the branch itself"
	case strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || strings.Contains(s, "//"):
		return "has an empty part", "a slash stands between two names"
	case strings.Contains(s, ".."), strings.Contains(s, "@{"), strings.HasSuffix(s, "."):
		return `must not contain ".." or "@{", or end with a dot`, ""
	case !utf8.ValidString(s), strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) }):
		return `must not contain spaces, control characters or any of ~ ^ : ? * [ \`, "a branch is named in full: there are no patterns"
	}
	for part := range strings.SplitSeq(s, "/") {
		if strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return `has a part that begins with a dot or ends in ".lock"`, ""
		}
	}
	return "", ""
}

// Branch says whether WrongBranch finds nothing wrong.
func Branch(s string) bool {
	wrong, _ := WrongBranch(s)
	return wrong == ""
}

// PM2Steps are the steps of the pm2 handler beside those that scripts give their names.
var PM2Steps = [...]string{"install", "migrate", "ecosystem", "daemon", "retire", "restart", "settle", "save"}
