package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
)

const (
	masked = "[secret]"

	// samplePlaceholder is the secret in the Python deployer's own default.toml,
	// which everybody can read.
	samplePlaceholder = "not-a-real-secret-token"
)

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
	return masked
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return `config.Secret("` + s.String() + `")` }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks the value in JSON, TOML and every other text encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// secrets gathers the webhook secrets: those written down, then those of files,
// then systemd's credential. All of them are valid at once.
func (t table) secrets() []Secret {
	var list []Secret
	var placeholder *node
	add := func(secret Secret, at position, key, what string) {
		if slices.Contains(list, secret) {
			return
		}
		list = append(list, secret)
		t.hide(secret.Reveal())
		if odd := oddity(secret.Reveal()); odd != "" {
			t.warn(at, key, what+" "+odd+": it counts as part of the secret, so signatures match only if GitHub has it, too; write the secret alone, on one line")
		}
	}
	const token, file = "webhook_secret_token", "webhook_secret_file"
	tokens, nodes := t.strings(token)
	for i, text := range tokens {
		switch {
		case strings.TrimSpace(text) == "":
			t.fail(nodes[i], token, token+" is empty: anybody could sign a delivery with it", "write a long random string, or leave the key out")
		case text == samplePlaceholder:
			placeholder = nodes[i]
		default:
			add(Secret(text), nodes[i].at, token, token)
		}
	}
	if n := t.get(token); n != nil {
		t.record(token, masked, n)
	}
	paths, nodes := t.strings(file)
	for i, path := range paths {
		if !filepath.IsAbs(path) {
			t.fail(nodes[i], file, fmt.Sprintf("%s must be an absolute path, not %q", file, path), `begin it with "/"`)
			continue
		}
		secret, err := t.on.readSecretFile(path)
		if err != nil {
			t.fail(nodes[i], file, fmt.Sprintf("%s %q cannot be used: %s", file, path, reason(err)), secretFileAdvice(err))
			continue
		}
		add(secret, nodes[i].at, file, fmt.Sprintf("%s %q", file, path))
	}
	if n := t.get(file); n != nil {
		t.record(file, paths, n)
	}
	t.credential(add)
	if placeholder != nil {
		t.warn(placeholder.at, token, token+` is the placeholder of the Python deployer's default.toml, which everybody can read: it is ignored, because anybody could sign a delivery with it`)
	}
	return list
}

// credential adds what systemd passes with LoadCredential=webhook_secret:... .
func (t table) credential(add func(secret Secret, at position, key, what string)) {
	dir := t.env("CREDENTIALS_DIRECTORY")
	if !filepath.IsAbs(dir) {
		return
	}
	path := filepath.Join(dir, "webhook_secret")
	secret, err := t.on.readSecretFile(path)
	switch {
	case err == nil:
		add(secret, position{}, "webhook_secret", fmt.Sprintf("the systemd credential %q", path))
		t.values = append(t.values, Value{Key: "webhook_secret", Value: masked, Source: "credential"})
	case errors.Is(err, fs.ErrNotExist): // the unit passes other credentials
	default:
		t.failAt(position{}, "webhook_secret", fmt.Sprintf("the systemd credential %q cannot be used: %s", path, reason(err)), secretFileAdvice(err))
	}
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
