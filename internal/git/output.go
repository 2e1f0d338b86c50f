package git

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxOutput bounds what is kept of an answer; ls-remote of one ref is a line.
const maxOutput = 1 << 20

type limitedBuffer struct {
	b    []byte
	full bool
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	keep := p[:min(len(p), maxOutput-len(l.b))]
	l.full = l.full || len(keep) < len(p)
	l.b = append(l.b, keep...)
	return len(p), nil
}

// lastBytes keeps the end of what git says about an error.
type lastBytes struct{ b []byte }

const (
	keepBytes    = 8 << 10
	messageLines = 4
)

func (l *lastBytes) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if over := len(l.b) - keepBytes; over > 0 {
		l.b = append(l.b[:0], l.b[over:]...)
	}
	return len(p), nil
}

// noAnswer are the lines that git ends with whenever the other side did not
// answer. They say nothing about why; ssh, or the other side, did before them.
var noAnswer = []string{
	"fatal: Could not read from remote repository.",
	"Please make sure you have the correct access rights",
	"and the repository exists.",
}

// message is the last lines, joined: from the first "fatal:" or "error:" of them
// on, if there is one. A remote's words may hold anything, so control characters go.
func (l *lastBytes) message() string {
	var lines []string
	for line := range strings.FieldsFuncSeq(string(l.b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(line, "?")))
		if line != "" {
			lines = append(lines, line)
		}
	}
	if cause := len(lines) - len(noAnswer); cause > 0 && slices.Equal(lines[cause:], noAnswer) {
		lines = lines[:cause]
	}
	lines = lines[max(0, len(lines)-messageLines):]
	for i, line := range lines {
		if strings.HasPrefix(line, "fatal:") || strings.HasPrefix(line, "error:") {
			lines = lines[i:]
			break
		}
	}
	return strings.Join(lines, "; ")
}

// changedKey is how ssh says that a host shows another key than the one that a file has for it.
var changedKey = regexp.MustCompile(`(?s)The fingerprint for the (\S+) key sent by the remote host is\s+(\S+?)\.\s.*Offending \S+ key in (\S+):\d+\s.*Host key for (\S+) has changed`)

// hostChanged says in one line what ssh says in twenty; "" where it says something else.
func hostChanged(said []byte) string {
	m := changedKey.FindSubmatch(said)
	if m == nil {
		return ""
	}
	return fmt.Sprintf("Host key verification failed: the key of %[4]s has changed. If its owner publishes the %[1]s key %[2]s, run `ssh-keygen -R %[4]q -f %[3]s` as the owner of that file, and deploy again; if not, somebody else answers in its place", m[1], m[2], m[3], m[4])
}
