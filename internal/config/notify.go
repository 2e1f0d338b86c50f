package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/sender"
)

// The values of Notify.On.
const (
	OnFailed      = "failed"
	OnRecovered   = "recovered"
	OnDeployed    = "deployed"
	OnInterrupted = "interrupted"
	OnWaiting     = "waiting"
	OnStopped     = "stopped"
	OnTampered    = "tampered"
)

// Notify is whom to tell of what.
type Notify struct {
	Name string `toml:"name" check:"plain" need:"name = \"team\""`
	// URL is the service, whose tokens it holds: that of URLFile or of the systemd
	// credential notify_NAME, too. It is empty where that cannot be used: see Service.
	URL     Secret   `toml:"url"`
	URLFile string   `toml:"url_file" check:"dir"`
	On      []string `toml:"on" choice:"failed recovered deployed interrupted waiting stopped tampered"`
	// Deployments are those that it is about; none written is all.
	Deployments []string      `toml:"deployments"`
	Waiting     time.Duration `toml:"waiting" default:"15m"`
}

// Wants says whether it is about that, of a deployment, or of the deployer where slug is "".
func (n *Notify) Wants(what, slug string) bool {
	return slices.Contains(n.On, what) && (slug == "" || n.Deployments == nil || slices.Contains(n.Deployments, slug))
}

// Service is the URL; where its file could not be used when the configuration was read,
// the one that it has now.
func (n *Notify) Service() (Secret, error) {
	if n.URL != "" || n.URLFile == "" {
		return n.URL, nil
	}
	secret, err := thisHost().readSecretFile(n.URLFile)
	url := strings.TrimSpace(secret.Reveal())
	if err == nil {
		err = sender.Check(url)
	}
	if err != nil {
		return "", fmt.Errorf("url_file %q cannot be used: %s", n.URLFile, reason(err))
	}
	return Secret(url), nil
}

const adviceNotify = `write it as shoutrrr's documentation has it for the service, as in "slack://hook:A-B-C@webhook", "ntfy://ntfy.sh/topic" or "generic+https://example.com/hook"`

// minToken is how long what is hidden of a service's URL is at the least.
const minToken = 16

// notifyURL keeps the URL of an entry out of run logs, and says what is wrong with it.
func (d *decoder) notifyURL(secret Secret) string {
	url := secret.Reveal()
	d.hide(url)
	for _, part := range sender.Secrets(url) {
		if len(part) >= minToken { // shorter ones are words, as the topics of ntfy
			d.hide(part)
		}
	}
	if err := sender.Check(url); err != nil {
		return err.Error()
	}
	return ""
}

// notify settles whom to tell.
func (d *decoder) notify(c *Config) {
	taken := map[string]bool{}
	for i := range c.Notify {
		one, key := &c.Notify[i], element("notify", i)
		s := d.setting(key)
		if taken[one.Name] && one.Name != "" {
			s.fail(fmt.Sprintf("two entries of [[notify]] are called %q", one.Name), "rename one: what is owed to an entry is kept under its name")
		}
		taken[one.Name] = true
		d.notifyService(c, one, key)
		if one.On == nil {
			one.On = []string{OnFailed, OnRecovered, OnStopped, OnTampered}
			d.values[key+".on"] = Value{Key: key + ".on", Value: one.On, Source: "default"}
		}
		if written, ok := d.values[key+".on"].Value.([]string); ok && len(written) == 0 {
			d.setting(key+".on").fail(fmt.Sprintf("%s.on is empty: %q would be told nothing", key, one.Name), "leave it out, or remove the entry")
		}
		for j, slug := range one.Deployments {
			if c.Deployments[slug] != nil {
				continue
			}
			advice := "there are none"
			if near := nearest(slug, c.Slugs()); len(near) > 0 {
				advice = "did you mean " + quote(near[0]) + "?"
			} else if len(c.Deployments) > 0 {
				advice = "they are " + strings.Join(c.Slugs(), ", ")
			}
			d.fail(d.place(element(key+".deployments", j), key), key+".deployments", fmt.Sprintf("there is no deployment %q, which %q is to be told of", slug, one.Name), advice)
		}
	}
}

// notifyService finds the URL of an entry.
func (d *decoder) notifyService(c *Config, one *Notify, key string) {
	url, file := d.setting(key+".url"), d.setting(key+".url_file")
	_, hasURL := d.values[url.key] // not has, which leads through no list
	_, hasFile := d.values[file.key]
	path, source := one.URLFile, "file"
	if !hasFile {
		path, source = d.credentialFile("notify_"+one.Name), "credential"
	}
	switch {
	case hasURL && hasFile:
		file.fail(key+" has both url and url_file", "leave one out")
	case hasURL:
		if wrong := d.notifyURL(one.URL); wrong != "" {
			url.fail(fmt.Sprintf("%s of [[notify]] %q cannot be used: %s", url.name, one.Name, wrong), adviceNotify)
		}
	case filepath.IsAbs(path): // else that was reported
		file.show(path, source)
		secret, err := d.on.readSecretFile(path)
		if err != nil {
			c.unusable(file, path, reason(err), secretFileAdvice(err))
			return
		}
		url := Secret(strings.TrimSpace(secret.Reveal()))
		if wrong := d.notifyURL(url); wrong != "" {
			c.unusable(file, path, wrong, adviceNotify)
		} else {
			one.URL = url
		}
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 && source == "file" {
			file.warn(fmt.Sprintf("%s %q can be read by everybody on this host: chmod 640 it, for the deployer's group", file.key, path))
		}
	default:
		at := d.at[key]
		c.missing = append(c.missing, &Error{at.file, at.line, at.column, key, fmt.Sprintf("[[notify]] %q names no service", one.Name),
			fmt.Sprintf(`add url_file = "/path/to/a/file" with its URL, or url = "...", or give systemd LoadCredential=notify_%s:/path/to/a/file`, one.Name)})
	}
}

func wrongPlain(s string) (wrong, suggestion string) {
	if !names.Plain(s) {
		return "must be " + names.PlainRule, ""
	}
	return "", ""
}
