package queue

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// A directory that is deleted under its watcher, as an operator may do who is
// about to rebuild it, must not leave a consumer waiting for ever.
func TestNextTellsThatTheDirectoryIsGone(t *testing.T) {
	for name, put := range map[string]func(*testing.T, string){
		"removed":  func(*testing.T, string) {},
		"replaced": func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o750)) },
	} {
		t.Run(name, func(t *testing.T) {
			q := open(t, t.TempDir()+"/q", WithScanInterval(20*time.Millisecond))
			w, err := q.Watch()
			must(t, err)
			defer w.Close()
			if replaced, err := q.Replaced(); err != nil || replaced {
				t.Fatalf("Replaced before it is: %v, %v", replaced, err)
			}
			must(t, os.RemoveAll(q.Dir()))
			put(t, q.Dir())
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := w.Next(ctx, 1); !errors.Is(err, ErrReplaced) {
				t.Fatalf("Next = %v, want ErrReplaced", err)
			}
			if replaced, err := q.Replaced(); err != nil || !replaced {
				t.Fatalf("Replaced = %v, %v", replaced, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whoever looks whether the directory is still there tells the watchers, who would
// else find out at their next scan.
func TestReplaced_TellsTheWatchers(t *testing.T) {
	q := open(t, t.TempDir()+"/q", WithScanInterval(time.Hour))
	w, err := q.Watch()
	must(t, err)
	defer w.Close()
	must(t, os.RemoveAll(q.Dir()))
	if replaced, err := q.Replaced(); err != nil || !replaced {
		t.Fatalf("Replaced = %v, %v", replaced, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := w.Next(ctx, 1); !errors.Is(err, ErrReplaced) {
		t.Fatalf("Next = %v, want ErrReplaced", err)
	}
}
