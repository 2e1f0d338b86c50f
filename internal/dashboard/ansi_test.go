package dashboard

import (
	"regexp"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/net/html"
)

func TestTerminalText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain <b>&\n":                                          "plain &lt;b&gt;&amp;\n",
		"\x1b[31mred\x1b[0m not":                                `<span class="f1">red</span> not`,
		"\x1b[1;32mok\x1b[22m still\x1b[m off":                  `<span class="f2 b">ok</span><span class="f2"> still</span> off`,
		"\x1b[91mbright\x1b[39m":                                `<span class="f1">bright</span>`,
		"\x1b[38;5;196mred\x1b[0m":                              `<span class="f1">red</span>`,
		"\x1b[38;2;10;20;250mblue\x1b[0m":                       `<span class="f4">blue</span>`,
		"\x1b[48;5;3;1mboth\x1b[0m":                             `<span class="b v">both</span>`,
		"\x1b[31mover\nlines\x1b[0m\n":                          "<span class=\"f1\">over</span>\n<span class=\"f1\">lines</span>\n",
		"10%\r50%\r100%\r\n":                                    "100%\n",
		"\x1b[31m10%\r20%":                                      `<span class="f1">20%</span>`,
		"\x1b]0;a title\aafter":                                 "after",
		"\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\":  "link",
		"\x1b[2J\x1b[1;1Hgone\x1b[K":                            "gone",
		"a\u202eb\x00c\x9bd\xff":                                "a\ufffdbc\ufffdd\ufffd",
		"10\u00a0%, 1\u202f000, 　":                              "10\u00a0%, 1\u202f000, 　",
		"\x1b[31":                                               "",
		"\x1b":                                                  "",
		"tab\there":                                             "tab\there",
		"== 2026-01-31T15:04:05.000Z step <x>\n":                "<span class=\"own\">== 2026-01-31T15:04:05.000Z step &lt;x&gt;</span>\n",
		"\x1b[31mleft on\n== 2026-01-31T15:04:05.000Z step y\n": "<span class=\"f1\">left on</span>\n<span class=\"own\">== 2026-01-31T15:04:05.000Z step y</span>\n",
		"\x1b[31m\n== a heading of a program\n":                 "\n<span class=\"f1\">== a heading of a program</span>\n",
		"":                                                      "",
	} {
		if got := string(terminalText(in)); got != want {
			t.Errorf("%q\n gives %q\n  not %q", in, got, want)
		}
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	if got := tail("half\na\nb\nc\n", true, 2); got != "b\nc\n" {
		t.Errorf("%q", got)
	}
	if got := tail("a\nb", false, 9); got != "a\nb" {
		t.Errorf("%q", got)
	}
}

var classes = regexp.MustCompile(`^(own|f[0-7]|[bdiusv])( [bdiusv])*$`)

// Whatever a program prints, the page has spans of known classes, and text that no
// terminal and no browser obeys.
func FuzzTerminalText(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m <script>\r\n")
	f.Add("\x1b]8;;x\x1b\\\x1b[38;2;1;2m\u202e")
	f.Fuzz(func(t *testing.T, in string) {
		var open int
		for z := html.NewTokenizer(strings.NewReader(string(terminalText(in)))); z.Next() != html.ErrorToken; {
			switch token := z.Token(); token.Type {
			case html.StartTagToken:
				open++
				if token.Data != "span" || len(token.Attr) != 1 || token.Attr[0].Key != "class" || !classes.MatchString(token.Attr[0].Val) {
					t.Fatalf("%q gives %v", in, token)
				}
			case html.EndTagToken:
				open--
			case html.TextToken:
				for _, r := range token.Data {
					if r != '\n' && r != '\t' && r != '\ufffd' && !unicode.IsPrint(r) {
						t.Fatalf("%q gives the letter %q", in, r)
					}
				}
			default:
				t.Fatalf("%q gives %v", in, token)
			}
			if open < 0 {
				t.Fatalf("%q ends what was not begun", in)
			}
		}
		if open != 0 {
			t.Fatalf("%q leaves %d open", in, open)
		}
	})
}
