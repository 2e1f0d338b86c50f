package dashboard

import (
	"html"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// style is what escape sequences have chosen for the text that follows.
type style struct {
	colour                                            int // 0 is none, else 1 + the number of the colour
	bold, dim, italic, underline, struck, highlighted bool
}

// class names the style for the stylesheet; "" for plain text.
func (s style) class() string {
	var names []string
	if s.colour > 0 {
		names = append(names, "f"+strconv.Itoa(s.colour-1))
	}
	for _, one := range []struct {
		set  bool
		name string
	}{{s.bold, "b"}, {s.dim, "d"}, {s.italic, "i"}, {s.underline, "u"}, {s.struck, "s"}, {s.highlighted, "v"}} {
		if one.set {
			names = append(names, one.name)
		}
	}
	return strings.Join(names, " ")
}

// ownLine begins the lines of a run log that are no program's.
var ownLine = regexp.MustCompile(`^== \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z `)

// terminalText is what a program printed, as HTML: colours become classes, a line that
// was drawn over shows what it was in the end, and whatever else would drive a terminal
// is left out. Lines of the run log's own are set apart.
func terminalText(text string) template.HTML {
	var b strings.Builder
	var s style
	for line := range strings.Lines(text) {
		line, end := strings.CutSuffix(line, "\n")
		own := ownLine.MatchString(line)
		if own {
			s = style{} // whatever a program has left on
			b.WriteString(`<span class="own">`)
		}
		s = terminalLine(&b, lastDrawn(strings.TrimRight(line, "\r")), s)
		if own {
			b.WriteString(`</span>`)
		}
		if end {
			b.WriteByte('\n')
		}
	}
	return template.HTML(b.String()) //nolint:gosec // every text in it was escaped
}

// lastDrawn is what a line shows after its carriage returns. The sequences that came before
// the last one count still.
func lastDrawn(line string) string {
	i := strings.LastIndexByte(line, '\r')
	if i < 0 {
		return line
	}
	var kept strings.Builder
	for rest := line[:i]; rest != ""; {
		at := strings.IndexByte(rest, '\x1b')
		if at < 0 {
			break
		}
		length, _, _ := sequence(rest[at:])
		kept.WriteString(rest[at : at+length])
		rest = rest[at+length:]
	}
	return kept.String() + line[i+1:]
}

func terminalLine(b *strings.Builder, line string, s style) style {
	var text strings.Builder
	flush := func() {
		if text.Len() == 0 {
			return
		}
		class := s.class()
		if class != "" {
			b.WriteString(`<span class="` + class + `">`)
		}
		b.WriteString(html.EscapeString(text.String()))
		if class != "" {
			b.WriteString(`</span>`)
		}
		text.Reset()
	}
	for line != "" {
		if line[0] == '\x1b' {
			length, parameters, colours := sequence(line)
			line = line[length:]
			if colours {
				flush()
				s = s.after(parameters)
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(line)
		switch {
		case r == '\t', r != utf8.RuneError && unicode.IsGraphic(r):
			text.WriteRune(r)
		case r >= ' ' && r != 0x7f: // broken UTF-8, and what turns the order of letters
			text.WriteRune(utf8.RuneError)
		}
		line = line[size:]
	}
	flush()
	return s
}

// sequence measures the escape sequence that text begins with, and says whether it is one
// that chooses colours and the like, with which parameters.
func sequence(text string) (length int, parameters string, colours bool) {
	if len(text) < 2 {
		return len(text), "", false
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			switch c := text[i]; {
			case c >= 0x40 && c <= 0x7e:
				return i + 1, text[2:i], c == 'm'
			case c < 0x20 || c > 0x3f: // no part of a sequence: it was cut short
				return i, "", false
			}
		}
		return len(text), "", false
	case ']', 'P', '_', '^', 'X': // a title, a link: text up to a BEL or ESC \
		if end := strings.IndexAny(text[2:], "\a\x1b"); end >= 0 {
			return 2 + end + 1 + strings.Count(text[2+end:min(len(text), 2+end+2)], `\`), "", false
		}
		return len(text), "", false
	}
	_, size := utf8.DecodeRuneInString(text[1:])
	return 1 + size, "", false
}

// after is the style that the parameters of a sequence make of s.
func (s style) after(parameters string) style {
	var numbers []int
	for p := range strings.FieldsFuncSeq(parameters+";", func(r rune) bool { return r == ';' || r == ':' }) {
		n, err := strconv.Atoi(p)
		if err != nil {
			return s
		}
		numbers = append(numbers, n)
	}
	if len(numbers) == 0 {
		return style{}
	}
	for i := 0; i < len(numbers); i++ {
		switch n := numbers[i]; {
		case n == 0:
			s = style{}
		case n == 1:
			s.bold = true
		case n == 2:
			s.dim = true
		case n == 3:
			s.italic = true
		case n == 4:
			s.underline = true
		case n == 7:
			s.highlighted = true
		case n == 9:
			s.struck = true
		case n == 22:
			s.bold, s.dim = false, false
		case n == 23:
			s.italic = false
		case n == 24:
			s.underline = false
		case n == 27, n == 49:
			s.highlighted = false
		case n == 29:
			s.struck = false
		case n >= 30 && n <= 37:
			s.colour = 1 + n - 30
		case n >= 90 && n <= 97:
			s.colour = 1 + n - 90
		case n == 39:
			s.colour = 0
		case n >= 40 && n <= 47, n >= 100 && n <= 107:
			s.highlighted = true
		case n == 38, n == 48:
			colour, took := extended(numbers[i+1:])
			i += took
			if n == 48 {
				s.highlighted = true
			} else {
				s.colour = colour
			}
		}
	}
	return s
}

// extended is the nearest of the eight colours to one of 256 or of sixteen million, and how many
// numbers named it.
func extended(numbers []int) (colour, took int) {
	level := func(v int) int { return min(1, max(0, v)/128) }
	switch {
	case len(numbers) >= 2 && numbers[0] == 5:
		switch n := numbers[1]; {
		case n >= 0 && n < 16:
			return 1 + n%8, 2
		case n >= 16 && n < 232:
			n -= 16
			return 1 + level(n/36*51) + 2*level(n/6%6*51) + 4*level(n%6*51), 2
		}
		return 0, 2
	case len(numbers) >= 4 && numbers[0] == 2:
		return 1 + level(numbers[1]) + 2*level(numbers[2]) + 4*level(numbers[3]), 4
	}
	return 0, len(numbers)
}

// tail keeps the end of a text, from the beginning of a line where there is one, and at most
// so many lines: more would be slow to draw and is in the whole text.
func tail(text string, cut bool, lines int) string {
	if cut {
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	all := slices.Collect(strings.Lines(text))
	return strings.Join(all[max(0, len(all)-lines):], "")
}
