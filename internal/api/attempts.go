package api

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// maxAttempts bounds a page of attempts, which has someAttempts where nobody says how many.
const (
	maxAttempts  = 200
	someAttempts = 20
)

// attemptsAnswer is a page of attempts, the newest first.
type attemptsAnswer struct {
	Attempts []answer.AttemptRow `json:"attempts"`
	// Next is the page of older ones, if there are any.
	Next string `json:"next,omitempty"`
}

func (h *Handler) attempts(_ http.ResponseWriter, r *http.Request) (any, error) {
	given, err := parameters(r, "limit", "before")
	if err != nil {
		return nil, err
	}
	limit, err := number(given, "limit", someAttempts, 1, maxAttempts)
	if err != nil {
		return nil, err
	}
	var before projections.Place
	if text := given["before"]; text != "" {
		if before, err = projections.ParsePlace(text); err != nil {
			return nil, wrongf("before: %w; take it from the next of another page, or leave it out", err)
		}
	}
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err != nil {
		return nil, err
	}
	slug := r.PathValue("slug")
	rows, older, err := source.History(ctx, slug, before, int(limit))
	slices.Reverse(rows)
	a := attemptsAnswer{Attempts: append([]answer.AttemptRow{}, rows...)}
	if older.Position > 0 {
		a.Next = next("deployments/"+url.PathEscape(slug)+"/attempts", given, "before", older.String())
	}
	return a, err
}
