package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// samplePlaceholder is the secret in the Python deployer's own default.toml,
// which everybody can read.
const samplePlaceholder = "not-a-real-secret-token"

// Secret is a value that no log, error, event or page may show. Every usual
// way of printing it gives "[secret]".
type Secret string

// Reveal returns the value itself, for the one place that needs it.
func (s Secret) Reveal() string { return string(s) }

// String returns "[secret]", or "" for the empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask.Secret
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return `config.Secret("` + s.String() + `")` }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks the value in JSON, TOML and every other text encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// add takes a webhook secret: those written down, then those of files, then
// systemd's credential, all of which are valid at once.
func (s setting) add(secret Secret, what string) {
	if slices.Contains(s.secrets, secret) {
		return
	}
	s.secrets = append(s.secrets, secret)
	s.hide(secret.Reveal())
	if odd := oddity(secret.Reveal()); odd != "" {
		s.warn(what + " " + odd + ": it counts as part of the secret, so signatures match only if GitHub has it, too; write the secret alone, on one line")
	}
}

func checkSecret(s setting, text string) string {
	switch {
	case strings.TrimSpace(text) == "":
		s.fail(s.key+" is empty: anybody could sign a delivery with it", "write a long random string, or leave the key out")
	case text == samplePlaceholder:
		s.warn(s.key + ` is the placeholder of the Python deployer's default.toml, which everybody can read: it is ignored, because anybody could sign a delivery with it`)
	default:
		s.add(Secret(text), s.key)
	}
	return text
}

func checkSecretFile(s setting, path string) string {
	if !s.absolute(path) {
		return ""
	}
	s.secretFile(path, s.key)
	return path
}

func (s setting) secretFile(path, what string) {
	secret, err := s.on.readSecretFile(path)
	if what = fmt.Sprintf("%s %q", what, path); err != nil {
		s.fail(fmt.Sprintf("%s cannot be used: %s", what, reason(err)), secretFileAdvice(err))
		return
	}
	s.add(secret, what)
}

// credential adds what systemd passes with LoadCredential=webhook_secret:... .
func (d *decoder) credential() {
	path := d.credentialFile("webhook_secret")
	if path == "" {
		return
	}
	s := d.setting("webhook_secret")
	s.secretFile(path, "the systemd credential")
	s.show(mask.Secret, "credential")
}

// credentialFile is where systemd passes a credential; "" where it passes others, or none.
func (d *decoder) credentialFile(name string) string {
	path := filepath.Join(d.env("CREDENTIALS_DIRECTORY"), name)
	if _, err := d.on.read(path, maxSecret); !filepath.IsAbs(path) || errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return path
}

// oddity says what a secret holds that was hardly meant to belong to it: what
// editors and shells add, and a form on a web page takes away.
func oddity(secret string) string {
	switch {
	case strings.HasPrefix(secret, "\uFEFF"):
		return "begins with a byte order mark"
	case strings.ContainsAny(secret, "\r\n"):
		return "has more than one line"
	case strings.TrimSpace(secret) != secret:
		return "begins or ends with a blank"
	}
	return ""
}

func secretFileAdvice(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "let the user that runs durhack-deployer read it, or pass it as a systemd credential"
	}
	return ""
}
