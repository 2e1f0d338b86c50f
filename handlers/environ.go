package handlers

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// inherited are the only variables of the daemon that git and the steps see
// without being told to. Everything else stays out: DATABASE_URL, credentials,
// NOTIFY_SOCKET.
var inherited = [...]string{
	"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR",
	// Variables that lead to remotes and registries.
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK",
}

// personal are those of inherited that are the daemon's user's alone.
var personal = [...]string{"HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_RUNTIME_DIR", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK"}

// fallbackPath is for a daemon that has no PATH, as under some init systems.
const fallbackPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment is the environment of every program that runs for a deployment, git
// among them: a clean one, with what was configured (NAME=value, later ones win),
// and what the job is in DURHACK_ variables. searchPaths come before PATH.
func Environment(job Job, configured, searchPaths []string) []string {
	return EnvironmentAs(As{}, job, configured, searchPaths)
}

// EnvironmentAs is Environment of programs that may run as another user: it then has
// nothing of the daemon's that is its user's alone, or secret.
func EnvironmentAs(as As, job Job, configured, searchPaths []string) []string {
	var vars []string
	for _, name := range inherited {
		v, ok := os.LookupEnv(name)
		if _, secret := mask.Password(v); ok && (as.User == nil || !secret && !slices.Contains(personal[:], name)) {
			vars = append(vars, name+"="+v)
		}
	}
	if as.User != nil {
		vars = append(vars, as.User.Variables()...)
	}
	vars = append(vars, configured...)
	path := fallbackPath
	for _, kv := range vars {
		if p, ok := strings.CutPrefix(kv, "PATH="); ok && p != "" {
			path = p
		}
	}
	if len(searchPaths) > 0 {
		path = strings.Join(searchPaths, string(filepath.ListSeparator)) + string(filepath.ListSeparator) + path
	}
	vars = append(vars, "PATH="+path)
	for _, kv := range [...][2]string{
		{"DURHACK_DEPLOYMENT", job.Deployment},
		{"DURHACK_DELIVERY_ID", job.DeliveryID},
		{"DURHACK_ATTEMPT", strconv.Itoa(job.Attempt)},
		{"DURHACK_BRANCH", job.Branch},
		{"DURHACK_COMMIT", job.Commit},
		{"DURHACK_PREVIOUS_COMMIT", job.PreviousCommit},
	} {
		// A NUL ends a variable, and exec refuses it.
		vars = append(vars, kv[0]+"="+strings.ReplaceAll(kv[1], "\x00", ""))
	}
	return vars
}

// Passwords lists those inside of URLs of an environment, as that of a proxy.
func Passwords(vars []string) []string {
	var passwords []string
	for _, kv := range vars {
		_, value, _ := strings.Cut(kv, "=")
		if password, has := mask.Password(value); has {
			passwords = append(passwords, password)
		}
	}
	return passwords
}
