package daemon

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key that ssh would refuse, or that others may read, is an error before anything runs.
func TestRefuse_KeyThatSSHCannotUse(t *testing.T) {
	key := filepath.Join(t.TempDir(), "web.key")
	s := newSite(t, "", "")
	s.cfg.Deployments["web"].Key = key
	refusal := func() string { return fmt.Sprint(Refuse(s.cfg, false, true)) }
	if got := refusal(); !strings.Contains(got, "is not there") || !strings.Contains(got, "ssh-keygen") {
		t.Errorf("a missing key: %s", got)
	}
	if err := os.WriteFile(key, []byte("a key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := refusal(); !strings.Contains(got, "has mode 0640") || !strings.Contains(got, "chmod 600") {
		t.Errorf("a key of a group: %s", got)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	openSSH := func(cipher string) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: fmt.Appendf(nil, "openssh-key-v1\x00\x00\x00\x00%c%s", len(cipher), cipher)})
	}
	sealed := pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}}
	for _, test := range []struct {
		text []byte
		want string
	}{
		{openSSH("none"), "<nil>"},
		{pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"}), "<nil>"},
		{openSSH("aes256-ctr"), "has a passphrase"},
		{pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY"}), "has a passphrase"},
		{pem.EncodeToMemory(&sealed), "has a passphrase"},
		{[]byte("ssh-ed25519 AAAA web@host\n"), "is not a private key"},
	} {
		if err := os.WriteFile(key, test.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := refusal(); !strings.Contains(got, test.want) {
			t.Errorf("%.20s: %s, want %q", test.text, got, test.want)
		}
	}
}
