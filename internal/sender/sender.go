// Package sender hands a text to a service (a chat, a mailbox, a webhook) that a URL
// names. It is the one place that knows shoutrrr, and what each service would make of
// text from outside.
package sender

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/format"
	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

const (
	// within bounds one attempt.
	within = 30 * time.Second
	// maxHanging is how many attempts of one Sender may hang. The library cannot be
	// told to stop, so that one which a service neither answers nor ends goes on.
	maxHanging = 4
	// maxError bounds what is said of a failure, in bytes.
	maxError = 300
)

// Sender sends to one service. It may be used by several goroutines.
type Sender struct {
	url     string
	secrets *mask.Set
	going   chan struct{}
	within  time.Duration
}

// New returns a Sender to what a URL names, which Check has found to be right.
func New(url string) *Sender {
	return &Sender{url: url, secrets: mask.NewSet(Secrets(url)), going: make(chan struct{}, maxHanging), within: within}
}

// refusedError says that the service has answered, and would answer the same again.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// Refused says that the same message would be refused again.
func Refused(err error) bool {
	_, is := errors.AsType[*refusedError](err)
	return is
}

var errHanging = errors.New("the service has not answered earlier messages yet")

// Send sends one message, and waits for the answer. Errors quote nothing that is secret.
// Where ctx ends, or the service does not answer in time, the message may still arrive.
func (s *Sender) Send(ctx context.Context, m Message) error {
	select {
	case s.going <- struct{}{}:
	default:
		return errHanging
	}
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	result := make(chan error, 1)
	// Nobody can wait for it, or end it: see maxHanging.
	go func() {
		defer func() { <-s.going }()
		result <- send(s.url, m)
	}()
	select {
	case err := <-result:
		return s.shown(err)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("the service did not answer within %s", s.within)
		}
		return context.Cause(ctx)
	}
}

// shown is an error of the library without what is secret.
func (s *Sender) shown(err error) error {
	if err == nil {
		return nil
	}
	text := shown(err, s.secrets)
	if refused(err) {
		return &refusedError{text}
	}
	return errors.New(text)
}

// Check says what is wrong with a service's URL. It asks no service, and quotes nothing
// that is secret.
func Check(raw string) error {
	u, err := parse(raw)
	if err != nil {
		return err
	}
	// The library finds out when it sends.
	if port, _ := strconv.Atoi(u.Port()); port > 65535 {
		return errors.New("its port is larger than 65535")
	}
	if (kind(u) == "generic" || kind(u) == "smtp") && u.Hostname() == "" {
		return errors.New("it names no host")
	}
	if kind(u) == "matrix" { // would log in
		password, _ := u.User.Password()
		u.User = url.UserPassword("", password)
	}
	if _, err := open(u); err != nil {
		return errors.New(shown(err, mask.NewSet(Secrets(raw))))
	}
	return nil
}

// Service is the name of the service that a URL names.
func Service(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return kind(u)
}

// parse reads a URL whose scheme is a service's.
func parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return nil, errors.New("it is not a URL")
	}
	if kind(u) == "http" || kind(u) == "https" {
		return nil, fmt.Errorf("it is the address of a website, and not a service; write generic+%s:// for a webhook, and for others what shoutrrr calls them", u.Scheme)
	}
	if names := services(); !slices.Contains(names, kind(u)) {
		return nil, fmt.Errorf("%q is not the name of a service; the services are %s", kind(u), strings.Join(names, ", "))
	}
	return u, nil
}

// kind is the service of a URL: "generic" of generic+https://... .
func kind(u *url.URL) string {
	name, _, _ := strings.Cut(u.Scheme, "+")
	return name
}

// services are the names that a URL may begin with.
func services() []string {
	var r router.ServiceRouter
	names := slices.DeleteFunc(r.ListServices(), func(name string) bool { return name == "logger" }) // reaches nobody
	slices.Sort(names)
	return names
}

// open makes the service of a URL ready. The library's own way to do it does not tell
// what is wrong.
func open(u *url.URL) (service types.Service, err error) {
	defer recovered(&err)
	var r router.ServiceRouter
	if service, err = r.NewService(kind(u)); err != nil {
		return nil, err
	}
	if custom, ok := service.(types.CustomURLService); ok && kind(u) != u.Scheme {
		if u, err = custom.GetConfigURLFromCustom(u); err != nil {
			return nil, err
		}
	} else if kind(u) != u.Scheme {
		return nil, fmt.Errorf("%s takes no other scheme after a +", kind(u))
	}
	return service, service.Initialize(u, nil)
}

// recovered makes an error of a panic of the library.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("a setting is empty, or nothing that the service can use (%v)", p)
	}
}

func send(raw string, m Message) (err error) {
	defer recovered(&err)
	u, err := parse(raw)
	if err != nil {
		return err
	}
	service, err := open(u)
	if err != nil {
		return err
	}
	params, err := settings(kind(u), service, line(m.Title))
	if err != nil {
		return err
	}
	return service.Send(m.text(styles[kind(u)]), params)
}

// plainText are settings that no URL may change: that a message is plain text.
var plainText = map[string][2]string{
	"smtp":     {"usehtml", "no"},
	"telegram": {"parsemode", "None"},
	"discord":  {"splitlines", "no"}, // else each line is a message
}

// settings sees to plainText, and are what a message says beside its text.
func settings(kind string, service types.Service, title string) (*types.Params, error) {
	if kind == "smtp" {
		title = mime.QEncoding.Encode("utf-8", title)
	}
	p := types.Params{}
	keys := format.NewPropKeyResolver(format.GetServiceConfig(service))
	if slices.Contains(keys.QueryFields(), types.TitleKey) {
		p.SetTitle(title)
	}
	if set := plainText[kind]; set[0] != "" {
		return &p, keys.Set(set[0], set[1])
	}
	return &p, nil
}

// minPart is how long a part of a token is at the least; shorter ones are words.
const minPart = 8

// Secrets lists what of a service's URL no output may show: all but the names of the
// service and of its host, and what says how mail is sent.
func Secrets(raw string) []string {
	secrets := []string{raw}
	u, err := url.Parse(raw)
	if err != nil {
		return secrets
	}
	password, _ := u.User.Password()
	secrets = append(secrets, u.User.Username(), password)
	if kind(u) == "smtp" {
		return secrets
	}
	if u.Port() == "" && !strings.Contains(u.Host, ".") && u.Host != "localhost" {
		secrets = append(secrets, u.Host) // an ID, as Discord has it
	}
	secrets = append(secrets, strings.Split(u.Path, "/")...)
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	for _, s := range slices.Clone(secrets[1:]) { // services take tokens apart
		for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(":/-@", r) }) {
			if len(part) >= minPart {
				secrets = append(secrets, part)
			}
		}
	}
	return slices.DeleteFunc(secrets, func(s string) bool { return len(s) < mask.MinSecret || slices.Contains(harmless, strings.ToLower(s)) })
}

// harmless are the words of queries that say how, and not to whom; to mask them would
// blot out what errors say.
var harmless = []string{"true", "json", "post", "http", "https", "webhook", "telegram", "hook", "xoxb", "none"}

var quoted = regexp.MustCompile(`([a-z][a-z0-9+.-]*)://[^\s"'<>]*`)

// shown is what may be said of an error, on one line.
func shown(err error, secrets *mask.Set) string {
	text := quoted.ReplaceAllStringFunc(err.Error(), func(found string) string {
		if u, err := url.Parse(found); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			return u.Scheme + "://" + u.Host + "/" + mask.Secret
		}
		return mask.Secret
	})
	return cut(line(secrets.String(text)), maxError)
}

var (
	// clientError is an answer of HTTP, or of ntfy with two more digits, that blames the
	// request. 408, 425 and 429 pass.
	clientError = regexp.MustCompile(`\b4(0[0-79]|1[0-8]|2[1246]|31|51)( [A-Z]|\d\d\))`)
	// refusal are the words of services that answer with 200, or whose errors have no number.
	refusal = regexp.MustCompile(`(?i)\b(unauthorized|forbidden|bad request|chat not found|unknown_token|invalid_auth|not_authed|account_inactive|token_revoked|invalid_token|no_service|no_team|channel_not_found|not_in_channel|is_archived)\b`)
)

// refused says that an error of the library is an answer that blames the message or
// the URL.
func refused(err error) bool {
	if smtp, ok := errors.AsType[*textproto.Error](err); ok {
		return smtp.Code >= 500
	}
	return clientError.MatchString(err.Error()) || refusal.MatchString(err.Error())
}
