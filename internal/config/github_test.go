package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const someToken = "github_pat_11AAAAAAA0this1is2secret"

func TestGitHub_TokenIsReadFromItsFileAndNeverShown(t *testing.T) {
	dir := t.TempDir()
	file := secretFile(t, dir, "token", someToken+"\n")
	c := mustParse(t, fmt.Sprintf("[github]\ntoken_file = %q", file))
	for _, want := range []string{someToken, "another_token_after_rotation"} {
		if got, err := c.GitHub.Token(); err != nil || got != want || !c.GitHub.Set() {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
		secretFile(t, dir, "token", "another_token_after_rotation")
	}
	if !slices.Contains(c.Hidden(), Secret(someToken)) {
		t.Error("the token is not hidden in run logs")
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", c, *c, c), fmt.Sprint(c.Origins(), c.Warnings)} {
		if strings.Contains(text, someToken) {
			t.Errorf("the token is shown: %s", text)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GitHub.Token(); err == nil || !strings.Contains(err.Error(), "there is no such file") {
		t.Errorf("%v", err)
	}
}

func TestGitHub_CredentialsOfSystemd(t *testing.T) {
	dir := t.TempDir()
	secretFile(t, dir, "github_token", someToken)
	if err := os.Chmod(filepath.Join(dir, "github_token"), 0o444); err != nil {
		t.Fatal(err)
	}
	c, err := parse(environment("CREDENTIALS_DIRECTORY", dir), "")
	if err != nil {
		t.Fatal(err)
	}
	if token, err := c.GitHub.Token(); token != someToken || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if err := os.Rename(filepath.Join(dir, "github_token"), filepath.Join(dir, "github_private_key")); err != nil {
		t.Fatal(err)
	}
	secretFile(t, dir, "github_private_key", pemOf(t, rsaKey(t)))
	c, err = parse(environment("CREDENTIALS_DIRECTORY", dir), "[github]\napp_id = 12")
	if err != nil {
		t.Fatal(err)
	}
	if key, err := c.GitHub.PrivateKey(); key == nil || err != nil {
		t.Error(err)
	}
}

func TestGitHub_FilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) string {
		b, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))
	}
	token := secretFile(t, dir, "token", someToken)
	app := func(content string) string {
		return fmt.Sprintf("app_id = 1\nprivate_key_file = %q", secretFile(t, dir, fmt.Sprintf("key%d", len(content)), content))
	}
	for text, want := range map[string]string{
		"token_file = \"/no/such/token\"":                                                 `github.token_file "/no/such/token" cannot be used: there is no such file`,
		fmt.Sprintf("token_file = %q", secretFile(t, dir, "two", someToken+"\nand more")): "it holds more than a token",
		fmt.Sprintf("token_file = %q", secretFile(t, dir, "empty", "\n")):                 "it is empty",
		fmt.Sprintf("token_file = %q\n%s", token, app(pemOf(t, rsaKey(t)))):               "[github] has both a token and an App; keep token_file",
		app(someToken):       "it is not a PEM file; name the .pem file",
		app(pkcs8(elliptic)): "it does not hold an RSA private key",
		app("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\n"): "it does not hold an RSA private key",
		app(pkcs8(rsaKey(t))): "",
		"deployments = true":  "",
	} {
		c, err := parse(environment(), "[github]\n"+text)
		if err == nil && len(c.Missing()) > 0 {
			err = c.Missing()[0] // the worker's alone
		}
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), someToken)):
			t.Errorf("%s: %v; want %q", text, err, want)
		case want == "" && !c.GitHub.Set() && len(c.Warnings) != 1:
			t.Errorf("%s: %v", text, c.Warnings)
		}
	}
}

// Nothing is held up by a mode: a daemon that starts goes on as it went on before.
func TestGitHub_TokenThatOthersMayReadIsWarnedOf(t *testing.T) {
	open := secretFile(t, t.TempDir(), "open", someToken)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	c := mustParse(t, fmt.Sprintf("[github]\ntoken_file = %q", open))
	if len(c.Missing()) > 0 || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), "has mode 0644, so anyone on this machine may use it: chmod 600 it") {
		t.Errorf("warnings %v, problems %v", c.Warnings, c.Missing())
	}
}

// The listener and commands of other users load a configuration with a token that only
// the worker's user may read; a worker starts without it, too, and says so.
func TestGitHub_TokenThatMayNotBeReadIsTheWorkersProblem(t *testing.T) {
	c := mustParse(t, "[github]\ntoken_file = \"/forbidden/token\"")
	if p := c.Missing(); len(p) != 1 || len(c.Problems()) > 0 || p[0].Line != 2 || !strings.Contains(p[0].Message, "permission denied") {
		t.Errorf("problems: %v", p)
	}
}

func TestAPIURL_IsHTTPSOrOfThisMachine(t *testing.T) {
	for _, good := range []string{"https://github.example.com/api/v3/", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"} {
		if c := mustParse(t, fmt.Sprintf("[github]\napi_url = %q", good)); c.GitHub.APIURL != strings.TrimRight(good, "/") {
			t.Errorf("%q is %q", good, c.GitHub.APIURL)
		}
	}
	for _, bad := range []string{"", "x", "ftp://github.com", "http://localhost.example.com", "https://u:hunter2@github.com", "https://github.com?x=1"} {
		if _, err := parse(environment(), fmt.Sprintf("[github]\napi_url = %q", bad)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func secretFile(t *testing.T, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pemOf(t *testing.T, key *rsa.PrivateKey) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

func TestReconcile_ZeroIsNever(t *testing.T) {
	for text, want := range map[string]time.Duration{`"0"`: 0, `0`: 0, `"10s"`: 10 * time.Second, `"1h"`: time.Hour} {
		if c := mustParse(t, "reconcile = "+text); c.Reconcile != want {
			t.Errorf("%s is %s", text, c.Reconcile)
		}
	}
}
