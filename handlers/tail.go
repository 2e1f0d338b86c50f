package handlers

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

const (
	tailBytes = 4 << 10
	tailLines = 20
)

// tail keeps the end of what is written to it.
type tail struct {
	buf []byte // at most twice tailBytes
	cut bool   // buf does not begin where the output began
}

func (t *tail) write(p []byte) {
	if len(p) > tailBytes {
		p = p[len(p)-tailBytes:]
		t.buf, t.cut = t.buf[:0], true
	}
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - 2*tailBytes; extra > 0 {
		t.buf, t.cut = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...), true
	}
}

// String is at most tailBytes long. It replaces NUL, which Postgres cannot keep
// in JSON, and what is not UTF-8.
func (t *tail) String() string {
	text := strings.ToValidUTF8(string(t.wholeRunes()), "\uFFFD")
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	cut := t.cut
	if over := len(text) - tailBytes; over > 0 {
		for !utf8.RuneStart(text[over]) {
			over++
		}
		text, cut = text[over:], true
	}
	if cut {
		// The first line is only a piece, unless it is all there is.
		if i := strings.IndexByte(text, '\n'); i >= 0 && i < len(text)-1 {
			text = text[i+1:]
		}
	}
	end := len(strings.TrimSuffix(text, "\n"))
	for lines, i := 0, end; i > 0; {
		i = strings.LastIndexByte(text[:i], '\n')
		if lines++; lines == tailLines && i >= 0 {
			return text[i+1:]
		}
	}
	return text
}

// wholeRunes leaves out the piece of a rune at the beginning of a cut.
func (t *tail) wholeRunes() []byte {
	b := t.buf
	for i := 0; t.cut && i < utf8.UTFMax-1 && len(b) > 0 && !utf8.RuneStart(b[0]); i++ {
		b = b[1:]
	}
	return bytes.Clone(b)
}
