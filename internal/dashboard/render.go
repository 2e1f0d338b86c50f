package dashboard

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// asset is a file that pages name.
type asset struct {
	content []byte
	kind    string
	// digest is put after its name, so that a browser can keep it.
	digest string
}

var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

func readAssets() map[string]asset {
	assets := map[string]asset{}
	for name, kind := range map[string]string{"style.css": kinds[".css"], "dashboard.js": kinds[".js"], "icon.svg": kinds[".svg"]} {
		content, err := fs.ReadFile(files, path.Join("assets", name))
		if err != nil {
			continue // embedded: a test looks at each
		}
		sum := sha256.Sum256(content)
		assets[name] = asset{content, kind, hex.EncodeToString(sum[:6])}
	}
	return assets
}

func (h *Handler) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := h.assets[r.PathValue("name")]
	if !ok {
		h.refuse(w, r, http.StatusNotFound, "There is no such file", "The pages are named at the top.")
		return
	}
	w.Header().Set("Content-Type", a.kind)
	if r.URL.Query().Get("v") == a.digest {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(a.content) // a client that does not read it does not get it
}

// favicon is what browsers ask for beside what is no page, as a run log.
func (h *Handler) favicon(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", kinds[".svg"])
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = w.Write(h.assets["icon.svg"].content) // a client that does not read it does not get it
}

// ticked shows what stands between backticks as what is to be typed.
func ticked(s string) template.HTML {
	parts := strings.Split(template.HTMLEscapeString(s), "`")
	var b strings.Builder
	for i, part := range parts {
		switch {
		case i%2 == 1 && i < len(parts)-1:
			b.WriteString("<code>" + part + "</code>")
		case i%2 == 1: // nothing ends it
			b.WriteString("`" + part)
		default:
			b.WriteString(part)
		}
	}
	return template.HTML(b.String()) //nolint:gosec // it was escaped
}

// parsePages makes a template of each page, within the layout.
func parsePages(assets map[string]asset) map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(template.FuncMap{
		"asset":  func(name string) string { return "/assets/" + name + "?v=" + assets[name].digest },
		"ago":    func(t time.Time) template.HTML { return moment(t, ago(t, time.Now())) },
		"clock":  func(t time.Time) template.HTML { return moment(t, "") },
		"hour":   hour,
		"took":   took,
		"ticked": ticked,
		"short":  short,
		"thin":   thin,
		"add":    func(a, b int) int { return a + b },
		"add64":  func(a, b int64) int64 { return a + b },
		"plain":  func(s string) string { return plain(s, 400) },
		"tab":    func(href, text string, here bool) tab { return tab{href, text, here} },
	}).ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/act.html"))
	pages := map[string]*template.Template{}
	for _, name := range []string{"overview", "deployment", "delivery", "log", "at", "proof", "problem", "login"} {
		pages[name] = template.Must(template.Must(shared.Clone()).ParseFS(files, "templates/"+name+".html"))
	}
	return pages
}

// tab is a link of the navigation.
type tab struct {
	Href, Text string
	Here       bool
}

// exactly is how a moment is written where there is room.
const exactly = "2 January 2006, 15:04:05 UTC"

// moment is a time element. Without a text it is the moment itself, which the script puts
// into the zone of the reader; with one that, and the moment beside it.
func moment(t time.Time, text string) template.HTML {
	if t.IsZero() {
		return ""
	}
	t = t.UTC()
	if text == "" {
		return template.HTML(fmt.Sprintf(`<time datetime="%s">%s</time>`, t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05")+" UTC")) //nolint:gosec // of our own letters
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s" data-ago>%s</time>`, t.Format(time.RFC3339), t.Format(exactly), text)) //nolint:gosec // of our own letters
}

// hour is the time of a day, where the day is known.
func hour(t time.Time) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s" data-hour>%s</time>`, t.Format(time.RFC3339), t.Format(exactly), t.Format("15:04:05"))) //nolint:gosec // of our own letters
}

// thin writes a number with thin spaces between its thousands.
func thin(n int64) string {
	text := strconv.FormatInt(n, 10)
	var groups []string
	for len(text) > 3 {
		groups = append([]string{text[len(text)-3:]}, groups...)
		text = text[:len(text)-3]
	}
	return strings.Join(append([]string{text}, groups...), "\u202f")
}
