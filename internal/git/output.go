package git

import "strings"

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

// message is the last lines, joined: from the last "fatal:" or "error:" on, if
// there is one. A remote's words may hold anything, so control characters go.
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
	lines = lines[max(0, len(lines)-messageLines):]
	for i, line := range lines {
		if strings.HasPrefix(line, "fatal:") || strings.HasPrefix(line, "error:") {
			lines = lines[i:]
			break
		}
	}
	return strings.Join(lines, "; ")
}
