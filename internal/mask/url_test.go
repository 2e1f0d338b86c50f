package mask

import (
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://github.com/octo/web.git":        "https://github.com/octo/web.git",
		"http://localhost:3000/web.git":          "http://localhost:3000/web.git",
		"https://u:p4ssword@example.com/web.git": "https://u:[secret]@example.com/web.git",
		"https://ghp_token@example.com/web.git":  "https://[secret]@example.com/web.git",
		"https://example.com/web.git?token=abcd": "https://example.com/web.git?[secret]",
		"ssh://git@example.com:22/web.git":       "ssh://git@example.com:22/web.git",
		"git@example.com:octo/web.git":           "git@example.com:octo/web.git",
		"git://example.com/web.git":              "git://example.com/web.git",
		"file:///srv/git/web.git":                "file:///srv/git/web.git",
		"/srv/git/web.git?x":                     "/srv/git/web.git?x",
		"//u:p4ssword@example.com":               "://u:[secret]@//example.com",
		"https://u:p4ssword@h:x/":                "[secret]",
	} {
		if got := URL(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func TestWithoutCredentials(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"https://github.com/o/r.git":       "https://github.com/o/r.git",
		"https://token@github.com/o/r.git": "https://github.com/o/r.git",
		"https://u:p@ss@h:1/o/r@x":         "https://h:1/o/r@x",
		"https://token@h":                  "https://h",
		"ssh://git@h/x":                    "ssh://git@h/x",
		"ssh://git:password@h/x":           "ssh://h/x",
		"git@github.com:o/r.git":           "git@github.com:o/r.git",
		"/srv/a@b.git":                     "/srv/a@b.git",
	} {
		if got := WithoutCredentials(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
	if got := strings.Join(Credentials("https://u:p%40ss@h/"), " "); got != "p%40ss p@ss u:p%40ss" {
		t.Errorf("credentials are %s", got)
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add("https://user:pass@host/x")
	f.Add("https://to%2fken@h")
	f.Add("ssh://git@host/x")
	f.Add("/path@x")
	f.Fuzz(func(t *testing.T, remote string) {
		public := WithoutCredentials(remote)
		if len(Credentials(remote)) > 0 && len(public) >= len(remote) {
			t.Fatalf("%q became %q", remote, public)
		}
		if password, _ := Password(remote); len(password) > len("[secret]") && strings.Count(URL(remote), password) > strings.Count(strings.Replace(remote, ":"+password+"@", "", 1), password) {
			t.Fatalf("%q is shown as %q", remote, URL(remote))
		}
	})
}
