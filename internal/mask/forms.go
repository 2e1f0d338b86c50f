package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

const (
	// MinSecret is the length in bytes under which a secret is not masked:
	// shorter ones would blot out ordinary words.
	MinSecret = 4
	// minLine is the same for a single line of a secret of many lines.
	minLine = 8
	// maxEncoded is the length over which only the secret itself and its lines
	// are masked: keys in files are printed by line, if at all.
	maxEncoded = 512
)

// Forms lists the spellings of a secret that are masked: as it is, each line of
// one that has several, as JSON and URLs escape it, in hex, and in base64 of all
// alphabets and at all three offsets, so that it is also found inside the base64
// of "user:secret".
func Forms(secret string) []string {
	var forms []string
	add := func(form string, min int) {
		if len(form) >= min && !slices.Contains(forms, form) {
			forms = append(forms, form)
		}
	}
	add(secret, MinSecret)
	add(strings.TrimSpace(secret), MinSecret)
	if strings.ContainsAny(strings.TrimSpace(secret), "\r\n") {
		for line := range strings.FieldsFuncSeq(secret, func(r rune) bool { return r == '\n' || r == '\r' }) {
			add(strings.TrimSpace(line), minLine)
		}
	}
	secret = strings.TrimSpace(secret)
	if len(secret) < MinSecret || len(secret) > maxEncoded {
		return forms
	}
	add(url.QueryEscape(secret), MinSecret)
	add(url.PathEscape(secret), MinSecret)
	add(url.UserPassword("", secret).String()[1:], MinSecret)
	if quoted, err := json.Marshal(secret); err == nil {
		add(string(quoted[1:len(quoted)-1]), MinSecret)
	}
	h := hex.EncodeToString([]byte(secret))
	add(h, MinSecret)
	add(strings.ToUpper(h), MinSecret)
	for offset := range 3 {
		for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			add(base64Core(alphabet, secret, offset), 2*MinSecret-2)
		}
	}
	return forms
}

// base64Core is the part of the base64 of a text that depends on the secret
// alone, where the secret begins offset bytes (modulo 3) into the text.
func base64Core(alphabet *base64.Encoding, secret string, offset int) string {
	encoded := alphabet.EncodeToString([]byte(strings.Repeat("\x00", offset) + secret))
	first := []int{0, 2, 3}[offset] // characters that also hold bits of what stands before
	if (offset+len(secret))%3 != 0 {
		encoded = encoded[:len(encoded)-1] // holds bits of what follows
	}
	return encoded[first:]
}
