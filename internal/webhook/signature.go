package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"net/http"
	"strings"
)

const signaturePrefix = "sha256="

// claimedSignature reads X-Hub-Signature-256. What cannot be right whatever the
// body holds is refused before the body is read. The SHA-1 header of old is
// never looked at but to explain.
func claimedSignature(h http.Header) ([]byte, *answer) {
	fail := func(reason, message string) ([]byte, *answer) {
		a := refuse(http.StatusUnauthorized, reason, message)
		return nil, &a
	}
	values := h["X-Hub-Signature-256"]
	switch {
	case len(values) == 0 && len(h["X-Hub-Signature"]) > 0:
		return fail("signature_sha1_only", "X-Hub-Signature (SHA-1) is not accepted; send X-Hub-Signature-256")
	case len(values) == 0:
		return fail("signature_missing", "X-Hub-Signature-256 is missing; set a secret for this webhook on GitHub, the same as the deployer's")
	case len(values) > 1:
		return fail("signature_repeated", "X-Hub-Signature-256 must be present exactly once")
	}
	digits, ok := strings.CutPrefix(values[0], signaturePrefix)
	mac, err := hex.DecodeString(digits)
	if !ok || err != nil || len(mac) != sha256.Size {
		return fail("signature_malformed", `X-Hub-Signature-256 must be "sha256=" and 64 hexadecimal digits`)
	}
	return mac, nil
}

// signer computes the signatures that each secret would give what is written to it.
type signer struct{ macs []hash.Hash }

func newSigner(secrets [][]byte) *signer {
	s := &signer{macs: make([]hash.Hash, len(secrets))}
	for i, secret := range secrets {
		s.macs[i] = hmac.New(sha256.New, secret)
	}
	return s
}

func (s *signer) write(b []byte) {
	for _, m := range s.macs {
		m.Write(b) // a hash never fails
	}
}

// matches says whether any of the secrets gave claimed, in a time that depends
// neither on which of them nor on how nearly.
func (s *signer) matches(claimed []byte) bool {
	found := 0
	var sum [sha256.Size]byte
	for _, m := range s.macs {
		found |= subtle.ConstantTimeCompare(m.Sum(sum[:0]), claimed)
	}
	return found == 1
}
