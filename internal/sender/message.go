package sender

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/ducompsoc/durhack-deployer/internal/words"
)

const (
	// maxText bounds a message, in bytes: ntfy and Telegram take little more.
	maxText = 3500
	// maxQuoted bounds a line from outside, maxLines and maxBlock several of them together.
	maxQuoted = 300
	maxLines  = 20
	maxBlock  = 1500
)

// Message is what is said. Text is ours, and Quoted is text from outside: it must not
// become a link, a heading or a call to everybody.
type Message struct {
	// Title is a few words, without text from outside.
	Title string `json:"title"`
	Parts []Part `json:"parts"`
}

// Part is a line of ours, with what it quotes on the same line, or on the next ones
// where Block is set.
type Part struct {
	Text   string `json:"text,omitempty"`
	Quoted string `json:"quoted,omitempty"`
	Block  bool   `json:"block,omitempty"`
}

// Say adds a line of ours.
func (m *Message) Say(format string, args ...any) {
	m.Parts = append(m.Parts, Part{Text: fmt.Sprintf(format, args...)})
}

// Quote adds a line of ours that ends with text from outside, if there is any.
func (m *Message) Quote(text, quoted string) {
	if quoted != "" {
		m.Parts = append(m.Parts, Part{Text: text, Quoted: cut(quoted, maxQuoted)})
	}
}

// QuoteLines adds a line of ours and the end of a text from outside, if there is any.
func (m *Message) QuoteLines(text, quoted string) {
	lines := strings.Split(strings.TrimRight(quoted, "\n"), "\n")
	lines = lines[max(0, len(lines)-maxLines):]
	for i, line := range lines {
		lines[i] = cut(line, maxQuoted)
	}
	for len(strings.Join(lines, "\n")) > maxBlock {
		lines = lines[1:]
	}
	if quoted = strings.Join(lines, "\n"); strings.TrimSpace(quoted) != "" {
		m.Parts = append(m.Parts, Part{Text: text, Quoted: quoted, Block: true})
	}
}

// style is how a service is kept from taking text from outside for more than text.
type style int

const (
	// broken is for services of which we know no better: their users are not called.
	broken style = iota
	// plain is for services that show what they get.
	plain
	// code puts each line into a span of code.
	code
	// slack is code, and Slack's own escapes.
	slack
	// escaped puts a backslash before what Markdown means.
	escaped
)

// styles are those of the services; others are broken.
var styles = map[string]style{
	"smtp": plain, "generic": plain, "ntfy": plain, "gotify": plain, "pushover": plain, "pushbullet": plain, "telegram": plain,
	"discord": code, "mattermost": code, "rocketchat": code, "zulip": code, "googlechat": code, "hangouts": code,
	"slack": slack,
	"teams": escaped,
}

// text is the message as a service gets it.
func (m Message) text(s style) string {
	var lines []string
	for _, p := range m.Parts {
		quoted := strings.Split(strings.TrimSpace(p.Quoted), "\n")
		if !p.Block {
			quoted = []string{strings.Join(quoted, " ")}
		}
		for i, text := range quoted {
			if quoted[i] = s.quote(line(text)); quoted[i] == "" && p.Block {
				quoted[i] = " " // a line of its own
			}
		}
		switch {
		case p.Quoted == "":
			lines = append(lines, p.Text)
		case p.Block:
			lines = append(append(lines, p.Text), quoted...)
		default:
			lines = append(lines, strings.TrimSpace(p.Text+" "+quoted[0]))
		}
	}
	return cut(strings.Join(lines, "\n"), maxText)
}

const zeroWidth = "\u200b" // a space that is not seen, and ends a word

var (
	apart    = strings.NewReplacer("@", "@"+zeroWidth, "<", "<"+zeroWidth)
	noTicks  = strings.NewReplacer("`", "'", "@", "@"+zeroWidth)
	entities = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	markdown = regexp.MustCompile("[\\\\`*_{}\\[\\]()#+.!|~<>-]")
	escapes  = regexp.MustCompile(`\x1b(\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])`)
)

func (s style) quote(text string) string {
	switch {
	case text == "" || s == plain:
		return text
	case s == code:
		return "`" + noTicks.Replace(text) + "`"
	case s == slack:
		return "`" + entities.Replace(noTicks.Replace(text)) + "`"
	case s == escaped:
		return markdown.ReplaceAllString(apart.Replace(text), `\$0`)
	}
	return apart.Replace(text)
}

// line is a text on one line: without the escapes of terminals, and without what turns
// the direction of writing or cannot be seen.
func line(text string) string {
	text = escapes.ReplaceAllString(strings.ToValidUTF8(text, "\uFFFD"), "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) && r != '\r':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, text))
}

func cut(text string, most int) string { return words.Cut(text, most, " ...") }
