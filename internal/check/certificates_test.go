package check

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestJudgeCertificate_NamesWhatDiffersOrEnds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	in := func(days int) *x509.Certificate {
		end := now.AddDate(0, 0, days)
		return &x509.Certificate{NotAfter: end, Raw: []byte(end.String())}
	}
	for name, c := range map[string]struct {
		served int
		files  []int
		level  Level
		text   string
		advice string
	}{
		"the same":                    {60, []int{60}, OK, "", ""},
		"one of two":                  {60, []int{80, 60}, OK, "", ""},
		"the file cannot be read":     {60, nil, OK, "", ""},
		"renewed, and not reloaded":   {20, []int{80}, Warn, "ends at 2026-12-19T00:00:00Z, and that in its file, which ends at 2027-02-17T00:00:00Z, is another one", "reload"},
		"ended, and renewed":          {-1, []int{60}, Fail, "ended at 2026-11-28T00:00:00Z, and that in its file", "reload"},
		"ends soon":                   {13, []int{13}, Warn, "ends at 2026-12-12T00:00:00Z", "certbot renew"},
		"ended":                       {-1, []int{-1}, Fail, "ended at 2026-11-28T00:00:00Z", "certbot renew"},
		"ended, and no file is known": {-1, nil, Fail, "ended at", "certbot renew"},
	} {
		var files []*x509.Certificate
		for _, days := range c.files {
			files = append(files, in(days))
		}
		level, text, advice := judgeCertificate(now, in(c.served), files)
		if level != c.level || !strings.Contains(text, c.text) || !strings.Contains(advice, c.advice) || c.level == OK && text+advice != "" {
			t.Errorf("%s: %s, %s, %s", name, level, text, advice)
		}
	}
}

func TestRenewsUnseen_LooksForAnInstallerOrAHook(t *testing.T) {
	t.Parallel()
	for text, unseen := range map[string]bool{
		"authenticator = nginx\ninstaller = nginx\n":                                         false,
		"authenticator = webroot\n":                                                          true,
		"authenticator = webroot\ninstaller = None\n":                                        true,
		"authenticator = webroot\nrenew_hook = systemctl reload nginx\n":                     false,
		"authenticator = webroot\n#installer = nginx\n[[webroot_map]]\nx.org = /var/www/x\n": true,
	} {
		live := filepath.Join(t.TempDir(), "live")
		renewal := filepath.Join(live, "../renewal")
		if err := os.MkdirAll(renewal, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(renewal, "x.org.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(live, "x.org/fullchain.pem")
		if got := renewsUnseen(file, live); (got != "") != unseen {
			t.Errorf("%q: %q", text, got)
		}
		if got := renewsUnseen("/etc/ssl/x.org/fullchain.pem", live) + renewsUnseen(filepath.Join(live, "y.org/fullchain.pem"), live); got != "" {
			t.Errorf("advice for what is not certbot's: %s", got)
		}
		hooks := filepath.Join(live, "../renewal-hooks/deploy")
		if err := os.MkdirAll(hooks, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(hooks, "reload"), nil, 0o700); err != nil {
			t.Fatal(err)
		}
		if got := renewsUnseen(file, live); got != "" {
			t.Errorf("%q with a hook for all: %q", text, got)
		}
	}
}
