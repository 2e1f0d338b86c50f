package materializer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// placeName is the hidden file beside the queues with a random name of theirs.
// Like the markers, it goes where the directory goes.
const placeName = ".place"

var placePattern = regexp.MustCompile(`\A[A-Z2-7]{26}\n\z`)

// readPlace returns "" where there is no name, or none that can be read: then
// nothing is known of what the queues hold.
func readPlace(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, placeName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the name of the queues: %w", err)
	}
	if !placePattern.Match(b) {
		return "", nil
	}
	return string(b[:len(b)-1]), nil
}

// makePlace gives the queues a name where they have none.
func makePlace(dir string) (string, error) {
	if place, err := readPlace(dir); err != nil || place != "" {
		return place, err
	}
	if err := newPlace(dir); err != nil {
		return "", fmt.Errorf("name the queues: %w", err)
	}
	return readPlace(dir)
}

// newPlace writes the name elsewhere first, so that nobody reads half of it. Of
// two who do so at once the last one wins, and the other's checkpoint is lost,
// which costs a rebuild. Nor need it survive a power loss.
func newPlace(dir string) error {
	// As the daemon makes it: the main queue in it may be shared with a group.
	if err := os.MkdirAll(dir, 0o751); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, placeName+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone, where all went well
	_, err = f.WriteString(rand.Text() + "\n")
	// A rebuild by root must leave it readable to the daemon.
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, placeName))
}
