package worker

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestSlots_AreGivenInTheOrderOfAsking(t *testing.T) {
	told := make(chan []string, 10)
	s := NewSlots(1, func(slugs []string) { told <- slugs })
	release, err := s.acquire(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		if got := <-told; !slices.Equal(got, want) {
			t.Fatalf("%q wait, want %q", got, want)
		}
	}
	got := make(chan string)
	ask := func(ctx context.Context, slug string) {
		go func() {
			release, err := s.acquire(ctx, slug)
			if err != nil {
				got <- err.Error()
				return
			}
			got <- slug
			release()
		}()
	}
	ask(t.Context(), "api")
	expect("api")
	gone := errors.New("gone")
	leaving, leave := context.WithCancelCause(t.Context())
	ask(leaving, "docs")
	expect("api", "docs")
	ask(t.Context(), "web") // which has just run
	expect("api", "docs", "web")
	leave(gone)
	expect("api", "web")
	if err := <-got; err != "wait for a free slot: gone" {
		t.Error(err)
	}
	release()
	expect("web")
	if slug := <-got; slug != "api" {
		t.Errorf("%s is first", slug)
	}
	expect()
	if slug := <-got; slug != "web" {
		t.Errorf("%s is second", slug)
	}
}
