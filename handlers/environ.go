package handlers

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// inherited are the only variables of the daemon that steps see. Everything
// else stays out: DATABASE_URL, credentials, NOTIFY_SOCKET.
var inherited = [...]string{"HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"}

// fallbackPath is for a daemon that has no PATH, as under some init systems.
const fallbackPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment is the environment of a job's programs: a clean one, with what the
// job is in DURHACK_ variables. searchPaths come before the daemon's PATH.
func Environment(job Job, searchPaths []string) []string {
	var vars []string
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			vars = append(vars, name+"="+v)
		}
	}
	path := os.Getenv("PATH")
	if path == "" {
		path = fallbackPath
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
