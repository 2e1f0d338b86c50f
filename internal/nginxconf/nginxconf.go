// Package nginxconf reads nginx's configuration as nginx does: what it takes for a
// directive, and nothing else, is one. It is ngx_conf_read_token, rule by rule, because
// a reader with other ideas of quotes and backslashes lets directives pass unseen.
package nginxconf

import (
	"fmt"
	"slices"
)

// Directive is one of a file's, its words as nginx understands them.
type Directive struct {
	Line  int
	Words []Word // at least one: its name
	Block bool   // a block follows it
	// Inside are the names of the blocks around it, the outermost first.
	Inside []string
}

// Word is a word of a directive, without its quotes and escapes.
type Word struct {
	Text string
	// Bare says that it was written so: without quotes and escapes.
	Bare bool
}

// Name is that of the directive.
func (d Directive) Name() string { return d.Words[0].Text }

// Parent is the name of the block around it, or "".
func (d Directive) Parent() string {
	if len(d.Inside) == 0 {
		return ""
	}
	return d.Inside[len(d.Inside)-1]
}

// Parse reads a file. With an error come the directives before it.
func Parse(text []byte) ([]Directive, *Error) {
	var (
		found  []Directive
		inside []string
		r      = reader{text: text, line: 1}
	)
	for {
		words, line, end, err := r.next()
		switch {
		case err != nil:
			return found, err
		case end == endOfFile && len(inside) > 0:
			return found, &Error{r.line, `unexpected end of file, expecting "}"`}
		case end == endOfFile:
			return found, nil
		case end == '}' && len(inside) == 0:
			return found, &Error{r.line, `unexpected "}"`}
		case end == '}':
			inside = inside[:len(inside)-1]
			continue
		}
		d := Directive{Line: line, Words: words, Block: end == '{', Inside: slices.Clone(inside)}
		found = append(found, d)
		if d.Block {
			inside = append(inside, d.Name())
		}
	}
}

// Error says what nginx would not read on from.
type Error struct {
	Line    int
	Message string
}

func (e *Error) Error() string { return e.Message }

const endOfFile = 0

type reader struct {
	text []byte
	at   int
	line int
}

func isSpace(ch byte) bool { return ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n' }

// next reads up to the end of a directive (';' or '{'), the end of a block ('}') or
// that of the file.
func (r *reader) next() (words []Word, line int, end byte, err *Error) {
	var (
		start             int
		quote             byte // of the word that is being read
		inWord, needSpace bool
		comment, escaped  bool
		variable          bool // a '$' came just before: "${" begins no block
		unexpected        = func(ch byte) *Error { return &Error{r.line, fmt.Sprintf("unexpected %q", string(ch))} }
		take              = func() { words = append(words, unescape(r.text[start:r.at-1], quote)) }
	)
	for r.at < len(r.text) {
		ch := r.text[r.at]
		r.at++
		if ch == '\n' {
			r.line++
			comment = false
		}
		switch {
		case comment:
			continue
		case escaped:
			escaped = false
			continue
		}
		if needSpace { // after a closing quote
			switch {
			case isSpace(ch):
				needSpace = false
				continue
			case ch == ';' || ch == '{':
				return words, line, ch, nil
			case ch != ')':
				return words, line, 0, unexpected(ch)
			}
			needSpace = false
		}
		if !inWord {
			switch ch {
			case ' ', '\t', '\r', '\n':
				continue
			case ';', '{':
				if len(words) == 0 {
					return nil, 0, 0, unexpected(ch)
				}
				return words, line, ch, nil
			case '}':
				if len(words) > 0 {
					return words, line, 0, unexpected(ch)
				}
				return nil, r.line, ch, nil
			case '#':
				comment = true
				continue
			}
			if len(words) == 0 {
				line = r.line
			}
			inWord, start, quote = true, r.at-1, 0
			switch ch {
			case '\\':
				escaped = true
			case '"', '\'':
				start++
				quote = ch
			case '$':
				variable = true
			}
			continue
		}
		if ch == '{' && variable {
			continue
		}
		variable = false
		switch {
		case ch == '\\':
			escaped = true
		case ch == '$':
			variable = true
		case quote != 0:
			if ch == quote {
				take()
				inWord, needSpace = false, true
			}
		case isSpace(ch):
			take()
			inWord = false
		case ch == ';' || ch == '{':
			take()
			return words, line, ch, nil
		}
	}
	if len(words) > 0 || inWord {
		return words, line, 0, &Error{r.line, `unexpected end of file, expecting ";" or "}"`}
	}
	return nil, r.line, endOfFile, nil
}

// unescape undoes what nginx undoes; other backslashes stay.
func unescape(text []byte, quote byte) Word {
	w := Word{Bare: quote == 0}
	var out []byte
	for i := 0; i < len(text); i++ {
		ch := text[i]
		if ch == '\\' {
			w.Bare = false
			if i+1 < len(text) {
				switch next := text[i+1]; next {
				case '"', '\'', '\\':
					ch, i = next, i+1
				case 't':
					ch, i = '\t', i+1
				case 'r':
					ch, i = '\r', i+1
				case 'n':
					ch, i = '\n', i+1
				}
			}
		}
		out = append(out, ch)
	}
	w.Text = string(out)
	return w
}
