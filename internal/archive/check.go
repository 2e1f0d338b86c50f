package archive

import "io"

// Check reads an archive as Import does, and keeps nothing of it. What is not an
// archive as it was exported is a *DamagedError.
func Check(from io.Reader) (Summary, error) {
	r := newReader(from)
	if err := r.start(); err != nil {
		return Summary{}, err
	}
	if err := r.events(nil); err != nil {
		return Summary{}, err
	}
	if err := r.bodies(nil); err != nil {
		return Summary{}, err
	}
	return r.finish()
}
