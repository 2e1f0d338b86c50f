package config

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

var (
	// GitHub's rules for user names, with the underscore that managed users
	// have, and for repository names.
	repositoryPattern = regexp.MustCompile(`\A[A-Za-z0-9_][A-Za-z0-9_-]{0,99}/[A-Za-z0-9_.-]{1,100}\z`)
	variablePattern   = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)
	unitPattern       = regexp.MustCompile(`\A[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}\z`)
	secretPattern     = regexp.MustCompile(`(?i)SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|AUTH|KEY|_URL\z|\AURL\z|DSN|_PAT\z`)
)

// secretName says whether a variable's name tells that its value should not be
// shown. URLs count, because they so often contain a password.
func secretName(name string) bool { return secretPattern.MatchString(name) }

func validRepository(s string) (wrong, suggestion string) {
	_, name, _ := strings.Cut(s, "/")
	switch {
	case strings.Contains(s, "://") || strings.HasPrefix(s, "git@"):
		return "is a URL", `write "owner/name"; a URL to fetch from goes into remote`
	case !repositoryPattern.MatchString(s) || name == "." || name == "..":
		return `is not of the form "owner/name"`, ""
	case strings.HasSuffix(name, ".git"):
		return "ends in .git, which no repository's name does", `write "` + strings.TrimSuffix(s, ".git") + `"`
	}
	return "", ""
}

// validBranch refuses, of what git accepts, what names no branch that could be
// checked out here.
func validBranch(s string) (wrong, suggestion string) {
	switch {
	case len(s) > 244: // refs/heads/ and it are a file name, at most 255 bytes a component
		return "is too long", ""
	case s == "HEAD":
		return "is not a branch", "name the branch itself"
	}
	return names.WrongBranch(s)
}

func validPath(s string) (wrong, suggestion string) {
	switch {
	case !filepath.IsAbs(s):
		return "is a relative path", `begin it with "/"`
	case filepath.Clean(s) == "/":
		return "is the root directory", "name a directory of its own"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "has a control character", ""
	}
	return "", ""
}

// validRemote refuses what git would take for an option, and its transport
// helpers (as in "ext::sh -c ..."), which run programs. The answers do not
// repeat the remote, which may contain a password.
func validRemote(s string) (wrong, suggestion string) {
	const advice = "write an https, http, ssh, git or file URL, user@host:path, or an absolute path"
	scheme, _, isURL := strings.Cut(s, "://")
	host, path, isSCP := strings.Cut(s, ":")
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) || s == "":
		return "must not be empty or contain spaces or control characters", advice
	case strings.HasPrefix(s, "-"):
		return "must not begin with a dash", advice
	case filepath.IsAbs(s):
		return "", ""
	case isURL:
		switch scheme {
		case "https", "http", "ssh", "git":
			if u, err := url.Parse(s); err != nil || u.Host == "" || strings.HasPrefix(u.Host, "-") {
				return "is not a URL", advice
			}
			return "", ""
		case "file":
			if u, err := url.Parse(s); err != nil || !filepath.IsAbs(u.Path) {
				return "is not a file URL", `write "file:///path"`
			}
			return "", ""
		}
		return "has a scheme that is not allowed", advice
	case isSCP && !strings.Contains(host, "/") && !strings.HasPrefix(path, ":") && path != "" && host != "":
		return "", ""
	}
	return "is neither a URL nor an absolute path", advice
}

func validHealth(s string) (wrong, suggestion string) {
	if u, err := url.Parse(s); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return "is not an http or https URL without a user", `write it like "http://localhost:3000/healthz"`
	}
	return "", ""
}

func validStepName(s string) (wrong, suggestion string) {
	switch {
	case strings.TrimSpace(s) == "":
		return "is empty", "say in a word or two what it does"
	case len(s) > 100:
		return "is longer than 100 bytes", ""
	case s == "fetch" || s == "checkout":
		return "is the name of a step that comes before the configured ones", "choose another"
	case s != strings.TrimSpace(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "must be printable, without a space at either end", ""
	}
	return "", ""
}

func validStepDir(s string) (wrong, suggestion string) {
	if s == "" || (filepath.IsLocal(s) && !strings.ContainsFunc(s, unicode.IsControl)) {
		return "", ""
	}
	return "is not inside of the deployment's path", `write it relative to path, without ".."`
}

func validInstanceName(s string) (wrong, suggestion string) {
	if strings.TrimSpace(s) == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "must be printable and not empty", ""
	}
	return "", ""
}

func validUnitName(s string) (wrong, suggestion string) {
	if !unitPattern.MatchString(s) {
		return "is not the name of a systemd unit", ""
	}
	return "", ""
}

// validSite keeps a site's name usable as a file name in nginx's directories.
func validSite(s string) (wrong, suggestion string) {
	if s == "" || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) }) {
		return "is not the name of a site", `write it like "www.example.com", or "*" for all`
	}
	return "", ""
}
