package nginx

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// The authenticators.
const (
	AuthenticatorNginx   = "nginx"
	AuthenticatorWebroot = "webroot"
	AuthenticatorNone    = "none" // certificates are somebody else's business
)

// Certificates says how certificates are had.
type Certificates struct {
	Authenticator string
	// Directory is certbot's: /etc/letsencrypt.
	Directory string
	// RenewBefore is how long before its end a certificate is due.
	RenewBefore time.Duration
}

// live is where certbot puts the certificate of each site.
func (c Certificates) live() string { return filepath.Join(c.Directory, "live") }

func (c Certificates) describe() string {
	if c.Authenticator == AuthenticatorNone {
		return "ask for no certificates: certificates.authenticator is none"
	}
	return "have root ask for certificates, where one is missing, lacks a name or is due"
}

func (c Certificates) verbs() [][]string {
	if c.Authenticator == AuthenticatorNone {
		return nil
	}
	return [][]string{{names.VerbCertificateInfo}, {names.VerbCertificate}}
}

// certificates has those that the new files need, while the old ones still serve:
// nginx refuses a file whose certificate is not there.
func (r *run) certificates(ctx context.Context, env handlers.Env) error {
	if r.cfg.Certificates.Authenticator == AuthenticatorNone {
		return nil
	}
	held := map[string]limit{}
	var errs []error
	for _, site := range slices.Sorted(maps.Keys(r.says)) {
		limit, err := r.certificate(ctx, env, site, r.says[site].names)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil:
			errs = append(errs, fmt.Errorf("the certificate of %s: %w", site, err))
		case limit != nil:
			held[site] = *limit
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return r.holdBack(env, held)
}

// certificate has that of a site. A limit is a refusal that is remembered: there is no
// certificate that the site can be served with, and the CA must not be asked.
func (r *run) certificate(ctx context.Context, env handlers.Env, site string, hosts []string) (*limit, error) {
	now := time.Now()
	have, err := certificateOf(ctx, env, site)
	if err != nil {
		return nil, err
	}
	why, needed := have.lacks(hosts, now.Add(r.cfg.Certificates.RenewBefore))
	if why == "" {
		return nil, nil
	}
	env.Say("%s: %s", site, why)
	switch {
	case have.wildcard():
		err = fmt.Errorf("%s, and it has a wildcard, so somebody has had it by hand: it is not replaced", why)
	case len(hosts) == 0:
		err = fmt.Errorf("%s, and none of its names can be asked for over HTTP: have it by hand (certbot certonly --manual --preferred-challenges dns)", why)
	case len(hosts) > maxNames:
		err = fmt.Errorf("the site has %d names, and a certificate has at most %d: make two files of it", len(hosts), maxNames)
	default:
		if l := r.state.limitFor(site, hosts, now); l != nil {
			env.Say("%s: %s", site, l)
			if needed {
				return l, nil
			}
			return nil, nil
		}
		err = r.ask(ctx, env, site, hosts)
	}
	if err != nil && !needed && ctx.Err() == nil {
		env.Say("%s: warning: %v", site, err)
		return nil, nil
	}
	return nil, err
}

// ask has certbot ask the CA, and looks whether that gave what was asked for.
func (r *run) ask(ctx context.Context, env handlers.Env, site string, hosts []string) error {
	var said bytes.Buffer
	err := env.AsRoot(ctx, io.MultiWriter(&said, out(env)), names.VerbCertificate, append([]string{site}, hosts...)...)
	if _, ran := errors.AsType[*process.ExitError](err); err != nil && !ran {
		return err
	}
	if err != nil {
		refused := readRefusal(said.String(), time.Now())
		if refused.limited() {
			r.state.remember(limit{Site: site, Names: hosts, Until: refused.until, Why: refused.detail}, time.Now())
			err = errors.Join(err, r.state.write(r.cfg.StateFile))
		}
		return fmt.Errorf("%w: %v", err, refused)
	}
	have, err := certificateOf(ctx, env, site)
	if err != nil {
		return err
	}
	if why, needed := have.lacks(hosts, time.Now()); needed {
		return fmt.Errorf("certbot succeeded, and %s", why)
	}
	return nil
}

// certificate is what is to be known of one; nil is none.
type certificate struct{ *x509.Certificate }

func certificateOf(ctx context.Context, env handlers.Env, site string) (certificate, error) {
	var said bytes.Buffer
	if err := env.AsRoot(ctx, &said, names.VerbCertificateInfo, site); err != nil {
		return certificate{}, err
	}
	block, _ := pem.Decode(said.Bytes()) // the first is the site's own
	if block == nil {
		return certificate{}, nil
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return certificate{}, fmt.Errorf("read it: %w", err)
	}
	return certificate{parsed}, nil
}

func (c certificate) wildcard() bool {
	return c.Certificate != nil && slices.ContainsFunc(c.DNSNames, func(name string) bool { return strings.HasPrefix(name, "*.") })
}

// lacks says why another is needed, or would be good to have: "" where it covers the
// names until then. Names that it has beside them are no reason.
func (c certificate) lacks(hosts []string, until time.Time) (why string, needed bool) {
	if c.Certificate == nil {
		return "there is no certificate", true
	}
	missing := slices.DeleteFunc(slices.Clone(hosts), func(name string) bool { return c.VerifyHostname(name) == nil })
	switch {
	case len(missing) > 0:
		return "it lacks " + strings.Join(missing, ", "), true
	case c.NotAfter.Before(until):
		return "it ends at " + c.NotAfter.UTC().Format(time.RFC3339), false
	}
	return "", false
}

// holdBack leaves sites as they stand whose certificates must wait, so that the others
// go live meanwhile. The run fails in the end.
func (r *run) holdBack(env handlers.Env, held map[string]limit) error {
	if len(held) == 0 {
		return nil
	}
	r.held = held
	standing, err := r.layout.current()
	if err != nil {
		return err
	}
	var kept []file
	for _, f := range r.wanted {
		if f.kind == sites {
			if _, is := held[parseName(f.name).site]; is && parseName(f.name).enabled {
				text, err := os.ReadFile(filepath.Join(r.layout.live, standing, string(sites), f.name))
				if standing == "" || err != nil {
					env.Say("%s is left out", f.name)
					continue
				}
				env.Say("%s is left as it is", f.name)
				f.text = text
			}
		}
		kept = append(kept, f)
	}
	r.wanted = kept
	return r.compare(env)
}

// finish removes old trees, and tells of sites that were held back.
func (r *run) finish(context.Context, handlers.Env) error {
	if err := r.layout.prune(); err != nil {
		return err
	}
	var errs []error
	for _, site := range slices.Sorted(maps.Keys(r.held)) {
		errs = append(errs, fmt.Errorf("%s was left as it was, for it has no certificate that covers it: %v; the others are live", site, r.held[site]))
	}
	return errors.Join(errs...)
}
