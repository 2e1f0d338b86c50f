package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The URL of a service is a secret wherever it comes from, and what is not written is
// told of what goes wrong, for every deployment.
func TestNotify(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"in-a-file": "ntfy://ntfy.sh/secret-of-a-file\n", "notify_c": "discord://secret-of-systemd@123456789"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := parse(environment("CREDENTIALS_DIRECTORY", dir), notify(`name = "a"`, `url = "smtp://someone:secret-that-is-written@mail.example.com:587/?from=a@example.com&to=b@example.com"`, `on = ["deployed"]`, `deployments = ["web"]`),
		notify(`name = "b"`, `url_file = "`+filepath.Join(dir, "in-a-file")+`"`, `waiting = "1h"`)+notify(`name = "c"`)+web(build1))
	if err != nil {
		t.Fatal(err)
	}
	// The list of a later file takes the place of the one before, as all lists do.
	b, credential := c.Notify[0], c.Notify[1]
	if len(c.Notify) != 2 || b.URL != "ntfy://ntfy.sh/secret-of-a-file" || b.Waiting != time.Hour || credential.URL != "discord://secret-of-systemd@123456789" || credential.Waiting != 15*time.Minute {
		t.Errorf("got %+v", c.Notify)
	}
	for what, want := range map[string]bool{OnFailed: true, OnRecovered: true, OnStopped: true, OnTampered: true, OnDeployed: false, OnInterrupted: false, OnWaiting: false} {
		if b.Wants(what, "web") != want || b.Wants(what, "") != want {
			t.Errorf("%s is told: %v", what, !want)
		}
	}
	unseen := mustParse(t, notify(`name = "a"`)+notify(`name = "b"`, `url_file = "/forbidden"`)+notify(`name = "c"`, `url_file = "/nowhere"`))
	var problems []string
	for _, p := range unseen.Missing() { // which keep nobody from a start
		problems = append(problems, p.Error())
	}
	if got, want := strings.Join(problems, "\n"), `a.toml:1:3: [[notify]] "a" names no service; add url_file = "/path/to/a/file" with its URL, or url = "...", or give systemd LoadCredential=notify_a:/path/to/a/file
a.toml:5:1: notify[1].url_file "/forbidden" cannot be used: permission denied; let the user that runs durhack-deployer read it, or pass it as a systemd credential
a.toml:8:1: notify[2].url_file "/nowhere" cannot be used: there is no such file`; got != want {
		t.Errorf("the problems are:\n%s\nwant:\n%s", got, want)
	}
	one := Notify{On: []string{OnFailed}, Deployments: []string{"web"}}
	if !one.Wants(OnFailed, "web") || one.Wants(OnFailed, "api") || !one.Wants(OnFailed, "") {
		t.Error("an entry for one deployment is told of others, or not of its own")
	}
	for _, secret := range []string{"secret-of-a-file", "secret-of-systemd", "discord://secret-of-systemd@123456789"} {
		if !slices.Contains(c.Hidden(), Secret(secret)) {
			t.Errorf("%s is not hidden from run logs", secret)
		}
	}
	shown := fmt.Sprintf("%+v %#v", c, c)
	for _, v := range c.Origins() {
		shown += v.Key + " = " + v.TOML() + "\n"
	}
	if strings.Contains(shown, "secret-of") {
		t.Errorf("shown is %s", shown)
	}
}
