package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// naive masks by the definition: every byte of every occurrence is covered, and
// a run of covered bytes becomes one Text.
func naive(text string, forms []string) string {
	covered := make([]bool, len(text))
	for _, form := range forms {
		for i := 0; i+len(form) <= len(text); i++ {
			if text[i:i+len(form)] == form {
				for j := range len(form) {
					covered[i+j] = true
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !covered[i]:
			b.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			b.WriteString(Text)
		}
	}
	return b.String()
}

// TestMask_AnySplitIsNaive: few letters and short forms, so that forms overlap,
// contain each other and repeat.
func TestMask_AnySplitIsNaive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		forms := rapid.SliceOfN(rapid.StringMatching(`[abc]{1,6}`), 0, 4).Draw(t, "forms")
		chunks := rapid.SliceOfN(rapid.StringMatching(`[abcd]{0,9}`), 0, 12).Draw(t, "chunks")
		var out bytes.Buffer
		set := compile(forms)
		w := NewWriter(&out, set)
		longest := 1
		for _, f := range forms {
			longest = max(longest, len(f))
		}
		for _, c := range chunks {
			if n, err := w.Write([]byte(c)); n != len(c) || err != nil {
				t.Fatalf("Write(%q) = %d, %v", c, n, err)
			}
			if len(w.held) >= longest {
				t.Fatalf("%d bytes are held back, the longest form has %d", len(w.held), longest)
			}
		}
		_ = w.Flush()
		text := strings.Join(chunks, "")
		if want := naive(text, forms); out.String() != want {
			t.Fatalf("forms %q, chunks %q: got %q, want %q", forms, chunks, out.String(), want)
		}
		if got, want := set.String(text), naive(text, forms); got != want {
			t.Fatalf("String(%q) = %q, want %q", text, got, want)
		}
	})
}

func TestForms(t *testing.T) {
	t.Parallel()
	const secret = "p@ss/w+rd \"x\" %41"
	quoted, _ := json.Marshal(secret)
	for name, text := range map[string]string{
		"raw":          "before " + secret + " after",
		"query":        "https://h/?q=" + url.QueryEscape(secret),
		"path":         "https://h/" + url.PathEscape(secret),
		"userinfo":     (&url.URL{Scheme: "https", Host: "h", User: url.UserPassword("u", secret)}).String(),
		"json":         string(quoted),
		"base64":       base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 url":   base64.URLEncoding.EncodeToString([]byte(secret)),
		"basic auth 0": base64.StdEncoding.EncodeToString([]byte("us:" + secret + "!")),
		"basic auth 1": base64.StdEncoding.EncodeToString([]byte("use:" + secret)),
		"basic auth 2": base64.StdEncoding.EncodeToString([]byte("user:" + secret + "!!")),
		"hex":          "7040" + "73732f772b72642022782220253431",
	} {
		got := NewSet([]string{secret}).String(text)
		if !strings.Contains(got, Text) || strings.Contains(got, "w+rd") {
			t.Errorf("%s: %q became %q", name, text, got)
		}
		// What is left of a base64 form must not tell the secret.
		if rest := strings.ReplaceAll(got, Text, ""); strings.HasPrefix(name, "basic") && len(rest) > 12 {
			t.Errorf("%s: too much is left: %q", name, got)
		}
	}
}

func TestSecretOfManyLines(t *testing.T) {
	t.Parallel()
	key := "-----BEGIN KEY-----\nabcdefghijklmnop\nqrstuvwxyz012345\n-----END KEY-----\n"
	got := NewSet([]string{key}).String("cat:   qrstuvwxyz012345\r\n")
	if want := "cat:   ***\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShortSecretsAreLeftOut(t *testing.T) {
	t.Parallel()
	if got := NewSet([]string{"", "a", "abc", " \n"}).String("abc a b"); got != "abc a b" {
		t.Errorf("got %q", got)
	}
}

func FuzzWriter(f *testing.F) {
	f.Add("secret", "tell", []byte("a secret to tellsecret"), uint8(3))
	f.Add("aaaa", "aab", []byte("aaaaaaaaabaaaa"), uint8(1))
	f.Fuzz(func(t *testing.T, a, b string, text []byte, step uint8) {
		if len(a) > 64 || len(b) > 64 || len(text) > 1024 {
			return
		}
		forms := append(Forms(a), Forms(b)...)
		var out bytes.Buffer
		w := NewWriter(&out, compile(forms))
		for rest := text; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			_, _ = w.Write(rest[:n])
			rest = rest[n:]
		}
		_ = w.Flush()
		if want := naive(string(text), forms); out.String() != want {
			t.Fatalf("got %q, want %q", out.String(), want)
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	w := NewWriter(discard{}, NewSet([]string{"correct horse battery staple", "hunter2hunter2"}))
	line := bytes.Repeat([]byte("a line of ordinary output from a build, not very long\n"), 600)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		_, _ = w.Write(line)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestSet_KnowsTheShortestSecret(t *testing.T) {
	t.Parallel()
	long := "k/y+&d7x9q2w"[:MinSecret]
	for _, form := range []string{long, url.QueryEscape(long), hex.EncodeToString([]byte(long))} {
		if got := NewSet([]string{long}).String("a " + form + " b"); got != "a "+Text+" b" {
			t.Errorf("%q is shown as %q", form, got)
		}
	}
	if got := NewSet([]string{long[1:]}).String(long); got != long {
		t.Errorf("what is too short for a secret blots out text: %q", got)
	}
}
