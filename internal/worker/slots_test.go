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
	release, err := s.acquire(t.Context(), "web", "web")
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
			release, err := s.acquire(ctx, slug, slug)
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

func TestSlots_RepositoriesTakeTurns(t *testing.T) {
	var waiting []string
	s := NewSlots(1, func(slugs []string) { waiting = slugs })
	release, err := s.acquire(t.Context(), "running", "one")
	if err != nil {
		t.Fatal(err)
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	ask := func(slug, repository string) {
		t.Helper()
		s.mu.Lock()
		s.line(slug, repository)
		s.mu.Unlock()
	}
	for _, slug := range []string{"a1", "a2", "a3"} {
		ask(slug, "a")
	}
	ask("b1", "b")
	ask("b2", "b")
	if want := []string{"a1", "b1", "a2", "b2", "a3"}; !slices.Equal(waiting, want) {
		t.Errorf("%q wait, want %q", waiting, want)
	}
	release()
	s.release("a")
	s.release("b")
	ask("c1", "c") // a and b have had their turns
	ask("a4", "a")
	if want := []string{"b2", "c1", "a3", "a4"}; !slices.Equal(waiting, want) {
		t.Errorf("%q wait, want %q", waiting, want)
	}
	if _, err := s.acquire(left, "d1", "d"); err == nil || len(waiting) != 4 {
		t.Errorf("%v, and %q wait", err, waiting)
	}
}

// Whoever has a push to many deployments leaves a slot for those of others.
func TestSlots_LastIsForARepositoryOfWhichNothingRuns(t *testing.T) {
	var waiting []string
	s := NewSlots(3, func(slugs []string) { waiting = slugs })
	var releases []func()
	takes := func(slug, repository string, want bool) {
		t.Helper()
		s.mu.Lock()
		got := s.take(repository)
		if !got {
			s.line(slug, repository)
		}
		s.mu.Unlock()
		if got != want {
			t.Fatalf("%s takes a slot: %v", slug, got)
		}
		releases = append(releases, func() { s.release(repository) })
	}
	takes("a1", "a", true)
	takes("a2", "a", true)
	takes("a3", "a", false)
	takes("b1", "b", true)
	takes("b2", "b", false)
	takes("c1", "c", false)
	releases[0]() // of a: the first in line who runs nothing is next
	if want := []string{"a3", "b2"}; !slices.Equal(waiting, want) {
		t.Fatalf("%q wait, want %q", waiting, want)
	}
	releases[1]() // the last of a
	if want := []string{"b2"}; !slices.Equal(waiting, want) {
		t.Fatalf("%q wait, want %q", waiting, want)
	}
	releases[3]() // of b
	if len(waiting) != 0 || s.free != 0 {
		t.Errorf("%q wait, and %d are free", waiting, s.free)
	}
}
