package dashboard

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/projections"
)

const (
	// tailBytes and tailLines bound what a page shows of a run log.
	tailBytes = 128 << 10
	tailLines = 500
)

// runLog is the end of what a run printed.
type runLog struct {
	Deployment string
	Attempt    int
	Text       template.HTML
	Size       string
	Whole      string
	// Tail is where the end is asked for again while the run goes on.
	Tail string
	// Gone says why there is none.
	Gone string
	// Recorded says that it is the end of the output that the log has.
	Recorded bool
	Cut      bool
	Choices  []attemptLink
}

func here(host string) bool {
	name, err := os.Hostname()
	return err == nil && name == host
}

// runFile is where the run log of an attempt is, on the host that ran it.
func (r *request) runFile(a projections.Attempt) string {
	return filepath.Join(r.h.runs(), a.Deployment, handlers.RunLogName(a.DeliveryID, a.Attempt))
}

func (h *Handler) runs() string { return filepath.Join(h.o.Config.StateDir, "runs") }

// log chooses the run to look at, and reads its end: that which is asked for, else the one that
// failed or goes on, else the first that ran.
func (v *deliveryView) log(_ context.Context, r *request, events []eventlog.Event) error {
	var chosen *part
	asked := r.URL.Query().Get("deployment")
	for i := range v.Parts {
		p := &v.Parts[i]
		ran := p.attempt.StartedPosition > 0
		if ran && (chosen == nil || p.Deployment == asked || asked != chosen.Deployment && (p.Class == "failed" || p.Class == "running") && chosen.Class != "failed" && chosen.Class != "running") {
			chosen = p
		}
	}
	if chosen == nil {
		return nil
	}
	a := chosen.attempt
	query := url.Values{"deployment": {a.Deployment}, "attempt": {strconv.Itoa(a.Attempt)}}
	base := "/deliveries/" + url.PathEscape(v.ID)
	l := &runLog{Deployment: a.Deployment, Attempt: a.Attempt, Whole: base + "/log?" + query.Encode()}
	v.Log = l
	for _, p := range v.Parts {
		if p.attempt.StartedPosition > 0 && len(v.Parts) > 1 {
			l.Choices = append(l.Choices, attemptLink{Outcome: p.Deployment, Class: p.Class, Href: r.runHref(p.attempt), Here: p.Deployment == a.Deployment})
		}
	}
	if a.Outcome == projections.OutcomeRunning {
		l.Tail = base + "/tail?" + query.Encode()
	}
	text, whole, err := r.h.end(a.Deployment, v.ID, a.Attempt)
	if err == nil && r.own(v.Instance) {
		l.Text, l.Size, l.Cut = terminalText(text), size(whole), whole > int64(len(text))
		return nil
	}
	l.Whole, l.Tail = "", ""
	l.Gone = "There is no run log: it was removed when it was old, or could not be written."
	for _, e := range events {
		d, ok := decoded(e).(eventlog.Started)
		if ok && e.Position == a.StartedPosition && (!here(d.Host) || !r.own(v.Instance)) {
			l.Gone = fmt.Sprintf("The run log is on %s: %s", plain(d.Host, 100), plain(d.RunLog, 300))
		}
		if f, ok := decoded(e).(eventlog.Failed); ok && e.Position == a.EndedPosition && f.OutputTail != "" {
			l.Text, l.Recorded = terminalText(f.OutputTail), true
		}
	}
	return nil
}

// open opens a run log, and never leaves the directory of the runs: what is in the log need
// not be trusted.
func (h *Handler) open(slug, id string, attempt int) (*os.File, int64, error) {
	root, err := os.OpenRoot(h.runs())
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	// Not to wait for the writer of a pipe that somebody put there.
	file, err := root.OpenFile(filepath.Join(slug, handlers.RunLogName(id, attempt)), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", file.Name())
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// end is the end of a run log, and how long the whole is.
func (h *Handler) end(slug, id string, attempt int) (text string, whole int64, err error) {
	file, whole, err := h.open(slug, id, attempt)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	begin := max(0, whole-tailBytes)
	raw, err := io.ReadAll(io.NewSectionReader(file, begin, tailBytes))
	if err != nil {
		return "", 0, err
	}
	return tail(string(raw), begin > 0, tailLines), whole, nil
}

// runOf reads which run log a request is about; ok is false once it was answered.
func (h *Handler) runOf(w http.ResponseWriter, r *http.Request) (slug, id string, attempt int, ok bool) {
	slug, id = r.URL.Query().Get("deployment"), r.PathValue("id")
	attempt, err := strconv.Atoi(r.URL.Query().Get("attempt"))
	if err != nil || attempt < 1 || !names.Slug(slug) || !names.DeliveryID(id) {
		h.refuse(w, r, http.StatusBadRequest, "That is no run log", "Name a delivery, its deployment and an attempt, as the page of a delivery does.")
		return "", "", 0, false
	}
	return slug, id, attempt, true
}

func (h *Handler) missing(w http.ResponseWriter, r *http.Request, err error) {
	code, next := http.StatusInternalServerError, plain(err.Error(), 300)
	if errors.Is(err, fs.ErrNotExist) {
		code, next = http.StatusNotFound, "It was removed when it was old, it is on another host, or it could not be written."
	}
	h.refuse(w, r, code, "There is no such run log here", next)
}

// wholeLog streams a run log as it is.
func (h *Handler) wholeLog(w http.ResponseWriter, r *http.Request) {
	slug, id, attempt, ok := h.runOf(w, r)
	if !ok {
		return
	}
	file, whole, err := h.open(slug, id, attempt)
	if err != nil {
		h.missing(w, r, err)
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf("inline; filename=%q", slug+"-"+handlers.RunLogName(id, attempt)))
	_, _ = io.CopyN(w, file, whole) // a client that does not read it does not get it
}

// logTail is the end of a run log as a page shows it, for the script.
func (h *Handler) logTail(w http.ResponseWriter, r *http.Request) {
	slug, id, attempt, ok := h.runOf(w, r)
	if !ok {
		return
	}
	file, whole, err := h.open(slug, id, attempt)
	if err != nil {
		h.missing(w, r, err)
		return
	}
	_ = file.Close()
	tag := fmt.Sprintf(`"%d"`, whole)
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	text, _, err := h.end(slug, id, attempt)
	if err != nil {
		h.missing(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = fmt.Fprintf(w, "<!doctype html><title>The end of a run log</title><pre class=\"log\">%s</pre>", terminalText(text))
}
