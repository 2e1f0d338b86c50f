package api

import (
	"net/http"
	"slices"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
)

// maxAttempts bounds a page of attempts, which has someAttempts where nobody says how many.
const (
	maxAttempts  = 200
	someAttempts = 20
)

// attemptsAnswer is a page of attempts, the newest first.
type attemptsAnswer struct {
	Attempts []answer.AttemptRow `json:"attempts"`
}

func (h *Handler) attempts(_ http.ResponseWriter, r *http.Request) (any, error) {
	given, err := parameters(r, "limit")
	if err != nil {
		return nil, err
	}
	limit, err := number(given, "limit", someAttempts, 1, maxAttempts)
	if err != nil {
		return nil, err
	}
	ctx, cancel, source, err := h.ask(r)
	defer cancel()
	if err != nil {
		return nil, err
	}
	rows, err := source.History(ctx, r.PathValue("slug"), int(limit))
	slices.Reverse(rows)
	return attemptsAnswer{append([]answer.AttemptRow{}, rows...)}, err
}
