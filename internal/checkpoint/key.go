package checkpoint

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key signs checkpoints. Printing it shows the public half only.
type Key struct {
	signer   note.Signer
	verifier note.Verifier
	public   string
}

// Name is the origin that the key signs for.
func (k *Key) Name() string { return k.signer.Name() }

// Public is the verifier key, for everyone who checks signatures: NAME+HASH+KEY.
func (k *Key) Public() string { return k.public }

// String is the verifier key.
func (k *Key) String() string { return k.public }

// Verifier checks the key's signatures.
func (k *Key) Verifier() note.Verifier { return k.verifier }

// Generate makes a key pair for the origin. private is what a key file holds.
func Generate(origin string) (private string, key *Key, err error) {
	private, _, err = note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", nil, fmt.Errorf("make a key: %w", err)
	}
	key, err = Parse(private)
	return private, key, err
}

var errKey = errors.New(`not a signing key: one line is expected, as "durhack-deployer keygen" writes it`)

// Parse reads a private key. Its errors do not contain any of it.
func Parse(private string) (*Key, error) {
	private = strings.TrimSpace(private)
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, errKey
	}
	// PRIVATE+KEY+<name>+<hash>+<algorithm and seed>
	fields := strings.Split(private, "+")
	seed, err := base64.StdEncoding.DecodeString(strings.Join(fields[4:], "+"))
	if err != nil {
		return nil, errKey
	}
	public, err := note.NewEd25519VerifierKey(signer.Name(), ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, errKey
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, errKey
	}
	return &Key{signer, verifier, public}, nil
}

// maxKeyFile bounds what is read as a key.
const maxKeyFile = 4096

// Load reads a key file. One that others than its owner may use is refused.
func Load(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the signing key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the signing key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("signing key %s has mode %04o: others than its owner may use it; chmod 600 it, and make a new one if somebody has", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	k, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return k, nil
}

// ParseVerifier reads a verifier key.
func ParseVerifier(public string) (note.Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSpace(public))
	if err != nil {
		return nil, fmt.Errorf(`%.200q is not a verifier key, as "durhack-deployer keygen" prints it: %w`, public, err)
	}
	return v, nil
}

// Origin is the name of a log: the host of the deployer's public URL, if it has
// one, and its instance. It has no spaces and no plus signs, as names of keys.
func Origin(host, instance string) string {
	name := "durhack-deployer/" + instance
	if host != "" {
		name = host + "/" + name
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == '+' || r >= 0x7f {
			return '-'
		}
		return r
	}, name)
}
