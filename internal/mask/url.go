package mask

import (
	"net/url"
	"slices"
	"strings"
)

// Secret stands in place of what is secret of a setting or a URL that is shown.
const Secret = "[secret]"

// URL is a URL as it may be shown: without its password, without a user that
// stands alone (that is how tokens are given, but a login name for ssh), and
// without its query. What is no URL, as user@host:path, is shown as it is.
func URL(text string) string {
	_, both := Password(text)
	if !strings.Contains(text, "://") && !both {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return Secret
	}
	if (u.User == nil || !both && u.Scheme == "ssh") && u.RawQuery == "" {
		return text
	}
	shown, user := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, ""
	switch {
	case both:
		user = url.PathEscape(u.User.Username()) + ":" + Secret + "@"
	case u.User != nil:
		user = Secret + "@"
	}
	text = shown.String()
	if user != "" {
		text = u.Scheme + "://" + user + strings.TrimPrefix(text, u.Scheme+"://")
	}
	if u.RawQuery != "" {
		text += "?" + Secret
	}
	return text
}

// Password is the one inside of a URL; has is false where there is none.
func Password(text string) (password string, has bool) {
	u, err := url.Parse(text)
	if err != nil {
		return "", false
	}
	return u.User.Password()
}

// Credentials lists what of a remote's URL no output may show: its password, or a
// user that stands alone, in every way that it may be spelled. It is not strict,
// for git is not.
func Credentials(remote string) []string {
	user, _ := cutUser(remote)
	name, secret, both := strings.Cut(user, ":")
	switch {
	case both:
	case user == "" || strings.HasPrefix(remote, "ssh:"): // a login name, as in git@github.com
		return nil
	default:
		secret = name
	}
	secrets := []string{secret, user}
	if plain, err := url.PathUnescape(secret); err == nil {
		secrets = append(secrets, plain)
	}
	slices.Sort(secrets)
	return slices.Compact(secrets)
}

// WithoutCredentials is a remote's URL without its user, if that has Credentials.
func WithoutCredentials(remote string) string {
	if len(Credentials(remote)) == 0 {
		return remote
	}
	_, rest := cutUser(remote)
	return rest
}

// cutUser takes what stands between the scheme of a URL and the last @ of its
// authority out of it.
func cutUser(remote string) (user, rest string) {
	scheme, after, ok := strings.Cut(remote, "://")
	authority, _, _ := strings.Cut(after, "/")
	at := strings.LastIndexByte(authority, '@')
	if !ok || at < 0 {
		return "", remote
	}
	return after[:at], scheme + "://" + after[at+1:]
}
