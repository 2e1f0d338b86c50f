// Package helper is the seam between the deployer and root: a client that asks for a
// verb of a fixed few, and a process of root's that does it, once the arguments have
// passed the rules of a file that only root can write. Nothing else of the deployer
// runs as root.
//
// A call is one line of JSON, the Request. The answer is lines of JSON: output, in
// pieces, and at last the result.
package helper

import (
	"io"
	"sync"
	"time"
)

// Request is what the deployer asks for.
type Request struct {
	Verb string   `json:"verb"`
	Args []string `json:"args,omitempty"`
	// Dry asks whether that would be done, and what would be run; nothing is. A verb
	// without its arguments is then asked about in general.
	Dry bool `json:"dry,omitempty"`
	// Deployment, DeliveryID and Actor are for root's journal. They are what the caller says.
	Deployment string `json:"deployment,omitempty"`
	DeliveryID string `json:"delivery_id,omitempty"`
	Actor      string `json:"actor,omitempty"`
}

// answer is a line of what the helper answers.
type answer struct {
	Output []byte `json:"output,omitempty"`
	// Done marks the last line; the rest belongs to it.
	Done     bool   `json:"done,omitempty"`
	ExitCode int    `json:"exit_code,omitempty"`
	Signal   string `json:"signal,omitempty"`
	// Error says why there is no exit code.
	Error string `json:"error,omitempty"`
}

const (
	// maxRequest bounds a request, in bytes: a hundred names of sites fit into it.
	maxRequest = 64 << 10
	// maxAnswer bounds a line of the answer, piece the output in it.
	maxAnswer = 64 << 10
	piece     = 16 << 10
	// maxOutput bounds the output of a call.
	maxOutput = 4 << 20

	// maxLogged and maxLoggedArgs bound what the journal holds of a request, in runes: it cuts
	// lines at 48 KiB, and what comes behind the cut would look like a line of the helper's.
	maxLogged     = 300
	maxLoggedArgs = 3000

	// requestWithin bounds the wait for a request, and for a reader of the answer.
	requestWithin = 10 * time.Second
	// verbWithin bounds what a verb does, callWithin the whole call.
	verbWithin = 10 * time.Minute
	callWithin = verbWithin + time.Minute
)

// serial is a writer for both streams of a program.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
