package check

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers/nginx"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

const (
	// endsSoon is when a certificate ends that its renewal should have replaced long ago.
	endsSoon = 14 * 24 * time.Hour
	// askSitesWithin bounds the questions to all sites.
	askSitesWithin = 30 * time.Second
)

// certificates compares what nginx serves with the files that its sites name: a
// certificate that was renewed is served only after a reload.
func (d *doctor) certificates(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, askSitesWithin, fmt.Errorf("the sites took longer than %v", askSitesWithin))
	defer cancel()
	asked, bad := 0, false
	say := func(level Level, advice, format string, args ...any) {
		bad = true
		d.say(level, advice, format, args...)
	}
	for _, slug := range d.cfg.Slugs() {
		dep := d.cfg.Deployments[slug]
		if !dep.Enabled || dep.Handler != config.HandlerNginx {
			continue
		}
		handler := daemon.Nginx(d.cfg, dep)
		served, err := handler.Served()
		if err != nil {
			say(Warn, "run this as the user that the daemon runs as", "%s: which sites are live cannot be told: %s", slug, oneLine(err))
			continue
		}
		silent, renewals := map[string]bool{}, map[string]bool{}
		for _, s := range served {
			if silent[s.Address] {
				continue
			}
			asked++
			leaf, err := servedTo(ctx, s)
			if err != nil {
				silent[s.Address] = true
				say(Fail, "start nginx, or have it reload its files (systemctl reload nginx); its error log says why it did not",
					"%s: %s gives no certificate at %s: %s", slug, orDefault(s.Name), s.Address, oneLine(err))
				continue
			}
			var files []*x509.Certificate
			for _, file := range s.Certificates {
				one, err := d.certificateIn(ctx, dep, file, handler.LiveCertificates())
				switch {
				case errors.Is(err, fs.ErrNotExist):
					say(Fail, "put it there: nginx goes on with what it has read, and would not start again", "%s: %s, which %s names, is not there", slug, file, s.File)
				case err != nil:
					say(Warn, "docs/handlers/helper.md says how root allows certificate-info", "%s: whether %s is served cannot be told: %s", slug, file, oneLine(err))
				default:
					files = append(files, one)
				}
				if advice := renewsUnseen(file, handler.LiveCertificates()); advice != "" && !renewals[file] {
					renewals[file] = true
					say(Warn, advice, "%s: certbot renews %s and has nginx not reload it, so the old one is served until it has ended", slug, file)
				}
			}
			if level, text, advice := judgeCertificate(time.Now(), leaf, files); level != OK {
				say(level, advice, "%s: %s is served with a certificate that %s", slug, orDefault(s.Name), text)
			}
		}
	}
	if asked > 0 && !bad {
		d.say(OK, "", "%s served as in the files", counted(asked, "certificate"))
	}
}

func orDefault(name string) string { return cmp.Or(name, "the default server") }

// servedTo is the certificate that a client is shown.
func servedTo(ctx context.Context, s nginx.Served) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var leaf *x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: s.Name, MinVersion: tls.VersionTLS10,
		InsecureSkipVerify: true, //nolint:gosec // the file is compared, whoever has signed it
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf = state.PeerCertificates[0]
			return nil
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", s.Address)
	if err == nil {
		_ = conn.Close()
	}
	if leaf != nil { // a server may want one of its clients, too
		return leaf, nil
	}
	return nil, err
}

// certificateIn is the one in a file. Where only root may read it, and it is one of
// certbot's, root is asked.
func (d *doctor) certificateIn(ctx context.Context, dep *config.Deployment, file, live string) (*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if site := lineage(file, live); errors.Is(err, fs.ErrPermission) && site != "" {
		var said bytes.Buffer
		err = daemon.Root(d.cfg, dep).Call(ctx, helper.Request{Verb: names.VerbCertificateInfo, Args: []string{site}, Deployment: dep.Slug}, &said)
		if text = said.Bytes(); err == nil && len(text) == 0 {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// lineage is certbot's name of the certificate in a file; "" where it is not certbot's.
func lineage(file, live string) string {
	if rest, is := strings.CutPrefix(file, live+"/"); is {
		return filepath.Dir(rest)
	}
	return ""
}

var reloads = regexp.MustCompile(`(?m)^(installer = [^N\s]|renew_hook = \S)`)

// renewsUnseen says what to do where certbot renews a certificate and tells nginx
// nothing, as far as this user sees.
func renewsUnseen(file, live string) (advice string) {
	site, certbot := lineage(file, live), filepath.Dir(live)
	text, err := os.ReadFile(filepath.Join(certbot, "renewal", site+".conf"))
	hooks := filepath.Join(certbot, "renewal-hooks", "deploy")
	entries, hookErr := os.ReadDir(hooks)
	if site == "" || err != nil || reloads.Match(text) || len(entries) > 0 || hookErr != nil && !errors.Is(hookErr, fs.ErrNotExist) {
		return ""
	}
	return "put a script that reloads nginx into " + hooks
}

// judgeCertificate compares what is served with what is in the files; none of them is known where
// there are no files.
func judgeCertificate(now time.Time, served *x509.Certificate, files []*x509.Certificate) (level Level, text, advice string) {
	differs := len(files) > 0 && !slices.ContainsFunc(files, served.Equal)
	ended := now.After(served.NotAfter)
	end := served.NotAfter.UTC().Format(time.RFC3339)
	text = "ends at " + end
	if ended {
		text = "ended at " + end
	}
	if differs {
		level, advice = Warn, "systemctl reload nginx"
		text += ", and that in its file, which ends at " + files[0].NotAfter.UTC().Format(time.RFC3339) + ", is another one"
	} else if served.NotAfter.Sub(now) < endsSoon {
		level, advice = Warn, "renew it: `certbot renew` as root, and `systemctl status certbot.timer` says whether it is tried"
	}
	switch {
	case ended:
		level = Fail
	case level == "":
		return OK, "", ""
	}
	return level, text, advice
}
