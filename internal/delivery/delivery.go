// Package delivery owns the form of a main-queue entry: what the listener (or
// the command line) writes and the router reads. It carries the raw body byte
// for byte.
package delivery

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// MaxBody is GitHub's limit for a payload, and ours, in bytes.
const MaxBody = 25 << 20

// version is the schema version of an entry.
const version = 1

// Delivery is one entry of the main queue.
type Delivery struct {
	V           int       `json:"v"`
	ID          string    `json:"delivery_id"`
	Event       string    `json:"event"`
	HookID      string    `json:"hook_id,omitempty"`
	ContentType string    `json:"content_type,omitempty"`
	ReceivedAt  time.Time `json:"received_at"`
	RemoteAddr  string    `json:"remote_addr,omitempty"`
	// Source is "github", "cli" or "recovery".
	Source string `json:"source"`
	// Actor and Deployment are set by the command line only, and Actor by recovery;
	// GitHub's actor is the sender in the body.
	Actor      string `json:"actor,omitempty"`
	Deployment string `json:"deployment,omitempty"`
	// Forced says that a person named the commit itself: see eventlog.Assignment.
	Forced bool `json:"forced,omitempty"`
	// Override says that the person wants it run though the deployment is frozen or
	// pinned, and Reason why.
	Override bool   `json:"override,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Salt keeps the digest of a redacted body from being guessed.
	Salt []byte `json:"salt"`
	// Body is the request's body, unchanged; base64 in the file.
	Body []byte `json:"body"`
}

// saltSize is what the log demands of a salt's length.
const saltSize = 16

// NewSalt returns 16 random bytes.
func NewSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // crypto/rand.Read never fails (Go 1.24)
	return salt
}

// Digest is hex SHA-256 of the salt followed by the body.
func (d Delivery) Digest() string {
	h := sha256.New()
	h.Write(d.Salt)
	h.Write(d.Body)
	return hex.EncodeToString(h.Sum(nil))
}
