package queue

import (
	"errors"
	"fmt"

	"github.com/fsnotify/fsnotify"
)

// hints are what the system says about changes of a directory. They may come
// late, twice, or be lost; only a scan is the truth.
type hints struct {
	events <-chan fsnotify.Event
	errors <-chan error
	close  func() error
}

// hintBuffer takes a burst while a scan is running.
const hintBuffer = 4096

func inotify(dir string) (*hints, error) {
	w, err := fsnotify.NewBufferedWatcher(hintBuffer)
	if err != nil {
		return nil, fmt.Errorf("start watching: %w", err)
	}
	if err := w.Add(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), w.Close())
	}
	return &hints{events: w.Events, errors: w.Errors, close: w.Close}, nil
}
