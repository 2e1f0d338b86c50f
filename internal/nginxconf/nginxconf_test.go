package nginxconf

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What is written with nginx's quotes and escapes is read as it was meant.
func TestParse_ReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	words := rapid.SliceOfN(rapid.StringMatching(`[ -~\t\n]{0,12}`), 1, 5)
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(words, 0, 8).Draw(t, "directives")
		var text strings.Builder
		for _, d := range list {
			for _, w := range d {
				quote := rapid.SampledFrom([]string{`"`, `'`}).Draw(t, "quote")
				text.WriteString(quote + strings.NewReplacer(`\`, `\\`, quote, `\`+quote).Replace(w) + quote)
				text.WriteString(rapid.SampledFrom([]string{" ", "\n\t", " # ;}\"{\n "}).Draw(t, "space"))
			}
			text.WriteString(rapid.SampledFrom([]string{";", "{}"}).Draw(t, "end"))
		}
		got, err := Parse([]byte(text.String()))
		if err != nil || len(got) != len(list) {
			t.Fatalf("%q gave %+v, %v", text.String(), got, err)
		}
		for i, d := range got {
			for j, w := range d.Words {
				if len(d.Words) != len(list[i]) || w.Text != list[i][j] || w.Bare {
					t.Fatalf("%q gave %+v, want %q", text.String(), d, list[i])
				}
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "server { listen 80; }", `a "b\"c" 'd' ${e} \;;`, "map $a $b { \"{\" 1; }", "a{b{c{}}}", "\\", "\"", "${"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Parse([]byte(text))
		if err != nil && (err.Line < 1 || err.Line > 1+strings.Count(text, "\n")) {
			t.Errorf("%q: line %d", text, err.Line)
		}
		for _, d := range list {
			if len(d.Words) == 0 || d.Line < 1 || len(d.Inside) > strings.Count(text, "{") {
				t.Errorf("%q: %+v", text, d)
			}
		}
	})
}
