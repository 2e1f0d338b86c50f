package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// checks are what tags name: each says what is wrong with the text of a setting (or
// an element of a list), and returns what of it is kept; of an element "" keeps none.
var checks = map[string]func(s setting, text string) string{
	"api_url":       checkAPIURL,
	"argument":      is(wrongArgument),
	"branch":        checkBranch,
	"database":      checkDatabase,
	"dir":           checkDir,
	"directive":     is(wrongDirective),
	"env_file":      checkEnvFile,
	"health":        checkHealth,
	"host":          checkHost,
	"inner_path":    is(wrongInnerPath),
	"instance":      checkInstance,
	"instance_name": is(wrongInstanceName),
	"key":           checkKey,
	"lock_url":      checkLockURL,
	"origin":        checkOrigin,
	"pass":          checkPass,
	"path":          checkPath,
	"plain":         is(wrongPlain),
	"pm2_home":      is(wrongPM2Home),
	"pnpm_script":   is(wrongScript),
	"private_file":  checkPrivateFile,
	"remote":        checkRemote,
	"repository":    is(wrongRepository),
	"search_path":   checkSearchPath,
	"secret":        checkSecret,
	"secret_file":   checkSecretFile,
	"shared":        is(wrongShared),
	"site":          is(wrongSite),
	"site_url":      checkSiteURL,
	"slug":          checkSlug,
	"step_dir":      is(wrongStepDir),
	"step_name":     is(wrongStepName),
	"umask":         is(wrongUmask),
	"unit":          is(wrongUnit),
	"user":          is(wrongUser),
	"user_header":   is(wrongUserHeader),
	"uwsgi":         checkUWSGI,
}

var sqlAlchemyURL = regexp.MustCompile(`\A(postgres(?:ql)?)\+[a-z0-9_]+://`)

// is makes a check of what says what is wrong with a text and what to do, or "".
func is(wrongly func(string) (wrong, suggestion string)) func(setting, string) string {
	return func(s setting, text string) string {
		wrong, suggestion := wrongly(text)
		if wrong == "" {
			return text
		}
		s.fail(fmt.Sprintf("%s %q %s", s.name, text, wrong), suggestion)
		return ""
	}
}

func checkSlug(s setting, slug string) string {
	switch {
	case !names.Plain(slug):
		s.fail(fmt.Sprintf("deployment %q: a slug is %s", slug, names.PlainRule), "it names a queue's directory")
		return ""
	case !names.Slug(slug):
		s.fail(fmt.Sprintf("deployment %q: this slug is the name of the main queue", slug), "choose another")
		return ""
	}
	return slug
}

func checkInstance(s setting, text string) string {
	if !names.Plain(text) {
		s.fail(fmt.Sprintf("instance %q must be %s", text, names.PlainRule), "")
	}
	return text
}

func checkOrigin(s setting, text string) string {
	const advice = `write it like "https://deploy.example.com"`
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		s.fail(s.name+" is not an http or https URL", advice)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		s.fail(s.name+" must have neither a user, a query nor a fragment", advice)
	}
	return strings.TrimRight(text, "/")
}

func wrongUserHeader(name string) (wrong, suggestion string) {
	const advice = `write the name of a header that only the proxy sets, like "X-Remote-User"`
	if !names.Header(name) {
		return "is not the name of a header", advice
	}
	for _, of := range []string{"accept", "authorization", "cookie", "host", "origin", "referer", "sec-", "user-agent"} {
		if strings.HasPrefix(strings.ToLower(name), of) {
			return "is a header that browsers set", advice
		}
	}
	return "", ""
}

func checkHost(s setting, text string) string {
	switch {
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' }):
		s.fail(fmt.Sprintf("%s is not a host: %q", s.name, text), "write a name or an address, without a port")
	case strings.ContainsAny(text, ":[]") && net.ParseIP(strings.Split(text, "%")[0]) == nil:
		s.fail(fmt.Sprintf("%s is not a host: %q", s.name, text), "write a name or an address, without brackets; the port has its own key")
	}
	return text
}

// absolute says that a text is an absolute path, or that it must be.
func (s setting) absolute(text string) bool {
	if filepath.IsAbs(text) && !strings.ContainsRune(text, 0) {
		return true
	}
	s.fail(fmt.Sprintf("%s must be an absolute path, not %q", s.key, text), `begin it with "/"`)
	return false
}

func checkDir(s setting, text string) string {
	s.absolute(text)
	return filepath.Clean(text)
}

func checkSearchPath(s setting, text string) string {
	// A relative one would be looked up in the checkout: anyone who may push
	// could then replace any program.
	if !filepath.IsAbs(text) || strings.ContainsAny(text, "\x00:") {
		s.fail(fmt.Sprintf("%s must be absolute paths without a colon, not %q", s.key, text), `begin it with "/"`)
		return ""
	}
	return filepath.Clean(text)
}

// minConns is the least that a pool must allow. The signer, and a rebuild of the
// read models, each hold a connection while they want a second one: with fewer,
// both could wait for each other for ever.
const minConns = 4

func checkDatabase(s setting, text string) string {
	if text == "" {
		return ""
	}
	if plain := withoutDriver(text); plain != text {
		text = plain
		s.warn(s.name + " names a driver of SQLAlchemy, which has no effect")
	}
	s.show(mask.Secret, "file")
	parsed, err := pgxpool.ParseConfig(text)
	if err != nil {
		// The parser's own words may repeat the password.
		message := s.name + " is not a Postgres connection string"
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			message = fmt.Sprintf("%s names the file %q, which cannot be read: %s", s.name, path.Path, reason(err))
		}
		s.fail(message, `write it like "postgres://user:password@host:5432/database"`)
		return ""
	}
	if parsed.MaxConns < minConns {
		s.fail(fmt.Sprintf("%s allows %d connections at once (pool_max_conns), and at least %d are needed", s.name, parsed.MaxConns, minConns),
			fmt.Sprintf("write pool_max_conns=%d or more, or leave it out", minConns))
	}
	s.hide(parsed.ConnConfig.Password)
	s.show(shownDatabase(parsed), "file")
	return text
}

// withoutDriver takes the driver out of a URL of SQLAlchemy.
func withoutDriver(text string) string { return sqlAlchemyURL.ReplaceAllString(text, "${1}://") }

// shownDatabase says where the database is; it is built from the parts that are
// not secret, so it cannot contain one.
func shownDatabase(c *pgxpool.Config) string {
	u := url.URL{Scheme: "postgres", Path: "/" + c.ConnConfig.Database}
	u.Host = net.JoinHostPort(c.ConnConfig.Host, fmt.Sprint(c.ConnConfig.Port))
	if strings.HasPrefix(c.ConnConfig.Host, "/") {
		u.Host = ""
		u.RawQuery = "host=" + c.ConnConfig.Host + "&port=" + fmt.Sprint(c.ConnConfig.Port)
	}
	user := url.PathEscape(c.ConnConfig.User)
	if c.ConnConfig.Password != "" {
		user += ":" + mask.Secret
	}
	if user != "" {
		user += "@"
	}
	return "postgres://" + user + strings.TrimPrefix(u.String(), "postgres://")
}

func checkLockURL(s setting, text string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		s.fail("lock.url must be a redis://, rediss:// or unix:// URL", `write it like "redis://localhost:6379/0"`)
		return ""
	}
	options, err := redis.ParseURL(text)
	if err != nil {
		// The parser's own words may repeat the password.
		s.fail("lock.url is not a URL that the Redis client understands", `write it like "redis://user:password@host:6379/0" or "unix:///path/to/socket?db=0"`)
		return ""
	}
	s.hide(options.Password)
	s.show(mask.URL(text), "file")
	return text
}

func wrongRepository(s string) (wrong, suggestion string) {
	_, name, _ := strings.Cut(s, "/")
	switch {
	case strings.Contains(s, "://") || strings.HasPrefix(s, "git@"):
		return "is a URL", `write "owner/name"; a URL to fetch from goes into remote`
	case !names.Repository(s):
		return `is not of the form "owner/name"`, ""
	case strings.HasSuffix(name, ".git"):
		return "ends in .git, which no repository's name does", `write "` + strings.TrimSuffix(s, ".git") + `"`
	}
	return "", ""
}

// wrongBranch refuses, of what git accepts, what names no branch that could be
// checked out here.
func wrongBranch(s string) (wrong, suggestion string) {
	switch {
	case len(s) > 244: // refs/heads/ and it are a file name, at most 255 bytes a component
		return "is too long", ""
	case s == "HEAD":
		return "is not a branch", "name the branch itself"
	}
	return names.WrongBranch(s)
}

func checkBranch(s setting, text string) string {
	if short, full := strings.CutPrefix(text, "refs/heads/"); full {
		s.warn(fmt.Sprintf("branch %q is meant without refs/heads/: a push to %q will not match", text, short))
	}
	return is(wrongBranch)(s, text)
}

func wrongPath(s string) (wrong, suggestion string) {
	switch {
	case !filepath.IsAbs(s):
		return "is a relative path", `begin it with "/"`
	case filepath.Clean(s) == "/":
		return "is the root directory", "name a directory for it"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "has a control character", ""
	}
	return "", ""
}

func checkPath(s setting, text string) string {
	if text = is(wrongPath)(s, text); text == "" {
		return ""
	}
	return filepath.Clean(text)
}

// unquoted is a path that means the same to a shell and to ssh, which expands ~, % and $ in it.
var unquoted = regexp.MustCompile(`\A/[A-Za-z0-9@_+=:,./-]*\z`)

func checkKey(s setting, text string) string {
	if !s.absolute(text) {
		return ""
	}
	if !unquoted.MatchString(text) {
		s.fail(fmt.Sprintf("%s %q has characters that ssh may take for something else", s.key, text), "keep it at a path of letters, digits and @_+=:,.-")
		return ""
	}
	return filepath.Clean(text)
}

func checkUWSGI(s setting, text string) string {
	if text = is(wrongPath)(s, text); text != "" {
		s.warn(s.name + " is accepted from the Python deployer's files and has no effect: nothing runs under uWSGI any more")
	}
	return text
}

func checkRemote(s setting, text string) string {
	shown := mask.URL(text)
	s.show(shown, "file")
	if wrong, suggestion := wrongRemote(text); wrong != "" {
		s.fail(s.name+" "+wrong, suggestion) // not the value itself: it may contain a password
		return ""
	}
	s.hide(mask.Credentials(text)...)
	if u, err := url.Parse(text); err == nil && u.User != nil && shown != text {
		s.warn(s.name + " contains a password, which git may show to other users of this machine; a credential helper or a deploy key does not")
	}
	return text
}

// wrongRemote refuses what git would take for an option, and its transport
// helpers (as in "ext::sh -c ..."), which run programs. The answers do not
// repeat the remote, which may contain a password.
func wrongRemote(s string) (wrong, suggestion string) {
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
		u, err := url.Parse(s)
		switch scheme {
		case "https", "http", "ssh", "git":
			if err != nil || u.Host == "" || strings.HasPrefix(u.Host, "-") {
				return "is not a URL", advice
			}
			return "", ""
		case "file":
			if err != nil || !filepath.IsAbs(u.Path) {
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

func checkHealth(s setting, text string) string {
	return checkURL(s, text, "http://localhost:3000/healthz")
}

func checkSiteURL(s setting, text string) string { return checkURL(s, text, "https://www.example.com") }

func checkURL(s setting, text, example string) string {
	if u, err := url.Parse(text); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil {
		s.fail(fmt.Sprintf("%s %q is not an http or https URL without a user", s.name, text), fmt.Sprintf("write it like %q", example))
		return ""
	}
	s.show(mask.URL(text), "file")
	return text
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func wrongStepName(s string) (wrong, suggestion string) {
	switch {
	case strings.TrimSpace(s) == "":
		return "is empty", "say in a word or two what it does"
	case len(s) > 100:
		return "is longer than 100 bytes", ""
	case s == names.StepFetch || s == names.StepCheckout:
		return "is the name of a step that comes before the configured ones", "choose another"
	case s != strings.TrimSpace(s) || strings.ContainsFunc(s, unprintable):
		return "must be printable, without a space at either end", ""
	}
	return "", ""
}

func wrongStepDir(s string) (wrong, suggestion string) {
	if s == "" || (filepath.IsLocal(s) && !strings.ContainsFunc(s, unicode.IsControl)) {
		return "", ""
	}
	return "is not inside of the deployment's path", `write it relative to path, without ".."`
}

func wrongDirective(s string) (wrong, suggestion string) {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || s == "" {
		return "is not the name of a directive of nginx", ""
	}
	return "", ""
}

func wrongShared(s string) (wrong, suggestion string) {
	switch {
	case s == "" || s == "." || !filepath.IsLocal(s) || strings.ContainsFunc(s, unprintable):
		return "is not inside of a release", `write it relative to the release, without ".."`
	case s != filepath.Clean(s):
		return "is not written plainly", fmt.Sprintf("write %q", filepath.Clean(s))
	case s == ".git" || strings.HasPrefix(s, ".git/"):
		return "is git's own", ""
	}
	return "", ""
}

func wrongArgument(s string) (wrong, suggestion string) {
	if strings.ContainsRune(s, 0) {
		return "has a NUL character, which no program can be given", ""
	}
	return "", ""
}

// wrongInnerPath keeps a path usable in a filter of pnpm.
func wrongInnerPath(s string) (wrong, suggestion string) {
	if s == "" || !filepath.IsLocal(s) || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || strings.ContainsRune("{}*!^", r) || unprintable(r) }) {
		return "is not a path inside of the deployment's", `write it relative to path, without "..", spaces and patterns`
	}
	return "", ""
}

// wrongPM2Home refuses a directory whose socket's path would be too long: pm2 would
// wait for it for ever.
func wrongPM2Home(s string) (wrong, suggestion string) {
	if wrong, suggestion := wrongPath(s); wrong != "" {
		return wrong, suggestion
	}
	if len(s) > 90 {
		return "is longer than the 90 bytes that leave room for pm2's sockets", "name a directory with a shorter path"
	}
	return "", ""
}

func wrongScript(s string) (wrong, suggestion string) {
	if wrong, suggestion := wrongStepName(s); wrong != "" {
		return wrong, suggestion
	}
	if strings.HasPrefix(s, "-") {
		return "begins with a dash", ""
	}
	if slices.Contains(names.PM2Steps[:], s) {
		return "is the name of a step of the handler", "give the script another name in package.json"
	}
	return "", ""
}

func wrongInstanceName(s string) (wrong, suggestion string) {
	if strings.TrimSpace(s) == "" || strings.ContainsFunc(s, unprintable) {
		return "must be printable and not empty", ""
	}
	return "", ""
}

// Umask is the text of a umask as a number; 0 where it is empty.
func Umask(text string) int {
	n, _ := strconv.ParseUint(text, 8, 16)
	return int(n)
}

func wrongUmask(s string) (wrong, suggestion string) {
	switch n, err := strconv.ParseUint(s, 8, 16); {
	case err != nil || n > 0o777:
		return "is not a umask in octal digits", `write it like "027"`
	case n == 0:
		return "lets everybody on the host write to what steps make", `write "002" where only the group should`
	case n&0o700 != 0:
		return "takes rights from the user itself, who could not go on with what it has made", `write it like "027"`
	}
	return "", ""
}

func wrongUser(s string) (wrong, suggestion string) {
	if !names.User(s) {
		return "is not the name of a user", `write a name of /etc/passwd, like "app"`
	}
	return "", ""
}

func wrongUnit(s string) (wrong, suggestion string) {
	if !names.Unit(s) {
		return "is not the name of a systemd unit", ""
	}
	return "", ""
}

// wrongSite keeps a site's name usable as a file name in nginx's directories.
func wrongSite(s string) (wrong, suggestion string) {
	if s == "" || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool { return r == '/' || unprintable(r) }) {
		return "is not the name of a site", `write it like "www.example.com", or "*" for all`
	}
	return "", ""
}
