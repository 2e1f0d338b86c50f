package config

import (
	"fmt"
	"strings"
)

// assignment is one NAME=value of an env_file.
type assignment struct {
	name, value string
	line        int
}

// parseDotenv reads the lines of an env_file: NAME=value, with or without
// "export" in front; a value as it is, in single quotes (literally, also over
// several lines), or in double quotes (the same, with \n, \r, \t, \", \\ and
// \$). A # begins a comment at the start of a line or after a space. Nothing is
// expanded: a $ is a $. wrong says what is not understood in which line.
func parseDotenv(text string) (list []assignment, line int, wrong string) {
	text = strings.TrimPrefix(text, "\ufeff")
	for line = 1; text != ""; line++ {
		var rest string
		rest, text, _ = strings.Cut(text, "\n")
		rest = strings.TrimLeft(rest, " \t")
		if strings.TrimSpace(rest) == "" || rest[0] == '#' {
			continue
		}
		if after, exported := strings.CutPrefix(rest, "export"); exported && strings.TrimLeft(after, " \t") != after {
			rest = strings.TrimLeft(after, " \t")
		}
		name, value, ok := strings.Cut(rest, "=")
		name = strings.TrimSpace(name)
		quoted := strings.TrimLeft(value, " \t")
		a := assignment{name: name, line: line}
		switch {
		case !ok:
			return nil, line, "it is not NAME=value"
		case !variablePattern.MatchString(name):
			return nil, line, fmt.Sprintf("%q is not the name of a variable", name)
		case quoted != "" && (quoted[0] == '"' || quoted[0] == '\''):
			// What follows the line belongs to it until the quote is closed.
			inside, after, lines, closed := unquote(quoted + "\n" + text)
			if !closed {
				return nil, line, "the quote is not closed"
			}
			line += lines
			after, text, _ = strings.Cut(after, "\n")
			if after = strings.TrimSpace(after); after != "" && after[0] != '#' {
				return nil, line, "something follows the closing quote"
			}
			a.value = inside
		default:
			for _, comment := range []string{" #", "\t#"} {
				value, _, _ = strings.Cut(value, comment)
			}
			a.value = strings.TrimSpace(value)
		}
		if strings.ContainsRune(a.value, 0) {
			return nil, a.line, "it has a NUL character, which no variable can hold"
		}
		list = append(list, a)
	}
	return list, 0, ""
}

// unquote reads what the quote that text begins with holds; lines counts the
// line ends in it.
func unquote(text string) (inside, rest string, lines int, closed bool) {
	quote := text[0]
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch {
		case c == quote:
			return b.String(), text[i+1:], lines, true
		case c == '\\' && quote == '"' && i+1 < len(text):
			if at := strings.IndexByte(`nrt"\$`, text[i+1]); at >= 0 {
				c = "\n\r\t\"\\$"[at]
				i++
			}
		case c == '\n':
			lines++
		}
		b.WriteByte(c)
	}
	return "", "", 0, false
}
