package config

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// GitHub is as whom GitHub's API is asked: with a token, or as an App. Without either it
// is not.
type GitHub struct {
	TokenFile string `toml:"token_file" check:"private_file"`
	// AppID and PrivateKeyFile are the App's.
	AppID          int    `toml:"app_id" max:"2147483647"`
	PrivateKeyFile string `toml:"private_key_file" check:"private_file"`
	APIURL         string `toml:"api_url" check:"api_url" default:"https://api.github.com"`
	// Deployments says that GitHub is told of deployments, beside commit statuses.
	Deployments bool `toml:"deployments"`
}

// Set says that there are credentials.
func (g GitHub) Set() bool { return g.TokenFile != "" || g.AppID != 0 }

// Token reads the token, as the file has it now.
func (g GitHub) Token() (string, error) {
	secret, err := thisHost().readSecretFile(g.TokenFile)
	if err != nil {
		return "", fmt.Errorf("github.token_file %q cannot be used: %s", g.TokenFile, reason(err))
	}
	return secret.Reveal(), nil
}

// PrivateKey reads the App's key, as the file has it now.
func (g GitHub) PrivateKey() (*rsa.PrivateKey, error) {
	secret, err := thisHost().readSecretFile(g.PrivateKeyFile)
	if err == nil {
		var key *rsa.PrivateKey
		if key, err = parseRSAKey(secret); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("github.private_key_file %q cannot be used: %s", g.PrivateKeyFile, reason(err))
}

// parseRSAKey reads a key as GitHub gives it (PKCS #1), or as other programs write it.
func parseRSAKey(text Secret) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text.Reveal()))
	if block == nil {
		return nil, errors.New("it is not a PEM file")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if key, ok := key.(*rsa.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, errors.New("it does not hold an RSA private key") // the parsers' words may repeat what it holds
}

// github adds the credentials that systemd passes, and looks at what they are.
func (d *decoder) github(c *Config) {
	g := &c.GitHub
	for name, file := range map[string]*string{"token": &g.TokenFile, "private_key": &g.PrivateKeyFile} {
		s := d.setting("github." + name + "_file")
		if path := d.credentialFile("github_" + name); path != "" && !d.has(s.key) {
			*file = path
			s.show(path, "credential")
		}
	}
	s := d.setting("github.app_id")
	s.at = d.place("github.app_id", "github.private_key_file", "github.token_file", "github")
	switch {
	case g.TokenFile != "" && (g.AppID != 0 || g.PrivateKeyFile != ""):
		s.fail("[github] has both a token and an App", "keep token_file, or app_id with private_key_file")
	case (g.AppID != 0) != (g.PrivateKeyFile != ""):
		s.fail("[github] needs app_id and private_key_file together", "both are on the App's page at GitHub; or write token_file in place of them")
	case g.Deployments && !g.Set():
		s.warn("github.deployments has no effect without credentials: write token_file, or app_id with private_key_file")
	}
	for _, one := range []struct {
		key, file string
		wrong     func(Secret) string
	}{{"github.token_file", g.TokenFile, wrongToken}, {"github.private_key_file", g.PrivateKeyFile, wrongRSAKey}} {
		if one.file != "" {
			d.privateFile(c, d.setting(one.key), one.file, one.wrong)
		}
	}
}

// privateFile looks at a file that holds a secret of the worker's.
func (d *decoder) privateFile(c *Config, s setting, path string, wrongly func(Secret) string) {
	secret, err := d.on.readSecretFile(path)
	if err != nil {
		c.unusable(s, path, reason(err), secretFileAdvice(err))
		return
	}
	s.hide(secret.Reveal())
	// systemd's are of the unit alone, whatever the mode says.
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 && d.values[s.key].Source != "credential" {
		s.warn(fmt.Sprintf("%s %q has mode %04o, so anyone on this machine may use it: chmod 600 it, give it to the deployer's user, and make a new one at GitHub if somebody may have read it",
			s.key, path, info.Mode().Perm()))
	}
	if wrong := wrongly(secret); wrong != "" {
		c.unusable(s, path, wrong, "")
	}
}

// unusable is a file that holds a secret which a worker cannot use: see Missing.
func (c *Config) unusable(s setting, path, wrong, advice string) {
	c.missing = append(c.missing, &Error{s.at.file, s.at.line, s.at.column, s.key, fmt.Sprintf("%s %q cannot be used: %s", s.key, path, wrong), advice})
}

func wrongToken(secret Secret) string {
	if strings.ContainsFunc(secret.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "it holds more than a token, which is letters, digits and underscores on one line"
	}
	return ""
}

func wrongRSAKey(secret Secret) string {
	if _, err := parseRSAKey(secret); err != nil {
		return err.Error() + "; name the .pem file that GitHub gave for the App"
	}
	return ""
}

func checkPrivateFile(s setting, path string) string {
	if !s.absolute(path) {
		return ""
	}
	return path
}

// checkAPIURL lets a token go out in the clear only within this machine.
func checkAPIURL(s setting, text string) string {
	const advice = `leave it out for github.com, or write it like "https://github.example.com/api/v3"`
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		s.fail(s.name+" is not an https URL", advice)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		s.fail(s.name+" must have neither a user, a query nor a fragment", advice)
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		s.fail(fmt.Sprintf("%s %q would send the token over the network for anyone to read", s.name, text), "write https")
	}
	return strings.TrimRight(text, "/")
}
