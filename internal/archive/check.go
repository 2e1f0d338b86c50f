package archive

import "io"

// Check reads an archive as Import does, and keeps nothing of it. What is not an
// archive as it was exported is a *DamagedError.
func Check(from io.Reader) (Summary, error) {
	r := newReader(from)
	if err := r.start(); err != nil {
		return Summary{}, err
	}
	for {
		if _, more, err := r.event(); err != nil {
			return Summary{}, err
		} else if !more {
			break
		}
	}
	for {
		if _, more, err := r.body(); err != nil {
			return Summary{}, err
		} else if !more {
			break
		}
	}
	return r.finish()
}
