package dashboard

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// TokenLasts is how long the link of a login works, which it does once.
	TokenLasts = time.Minute
	// sessionLasts is how long a login lasts.
	sessionLasts = 24 * time.Hour
)

// Logins are who may act in the dashboard of an instance. Tokens and sessions are
// random, and only their digests are kept; the database's clock says when they end.
type Logins struct {
	Pool *pgxpool.Pool
	// Reading, if not nil, is what questions are asked of: anyone may ask, with any cookie.
	Reading  *pgxpool.Pool
	Instance string
}

// valid is what holds for a row that counts. One that was made in the future is of a
// clock that has stepped back since: for how long it is good cannot be told then.
const valid = `clock_timestamp() between made_at - interval '1 minute' and ends_at`

// errNoLogin says that a token or a session is unknown, used or over.
var errNoLogin = errors.New("no such login")

// NewToken makes a token that lets an actor log in.
func (l Logins) NewToken(ctx context.Context, actor string) (string, error) {
	token, digest := newSecret()
	if _, err := l.Pool.Exec(ctx, "delete from logins where not ("+valid+")"); err != nil {
		return "", fmt.Errorf("forget logins that are over: %w", err)
	}
	const insert = `insert into logins (digest, kind, instance, actor, ends_at) values ($1, 'token', $2, $3, clock_timestamp() + $4)`
	if _, err := l.Pool.Exec(ctx, insert, digest, l.Instance, actor, TokenLasts); err != nil {
		return "", fmt.Errorf("keep the login: %w", err)
	}
	return token, nil
}

// offered is whom a token lets in; it does not use it up.
func (l Logins) offered(ctx context.Context, token string) (actor string, err error) {
	return l.actor(ctx, token, "token")
}

// session is whose session it is.
func (l Logins) session(ctx context.Context, secret string) (actor string, err error) {
	return l.actor(ctx, secret, "session")
}

func (l Logins) actor(ctx context.Context, secret, kind string) (actor string, err error) {
	const q = "select actor from logins where digest = $1 and kind = $2 and instance = $3 and " + valid
	return one(cmp.Or(l.Reading, l.Pool).QueryRow(ctx, q, digestOf(secret), kind, l.Instance))
}

// redeem makes a session of a token, which is used up by that.
func (l Logins) redeem(ctx context.Context, token string) (secret, actor string, err error) {
	if _, err := l.offered(ctx, token); err != nil {
		return "", "", err
	}
	secret, digest := newSecret()
	const q = `with used as (
		delete from logins where digest = $1 and kind = 'token' and instance = $2 and ` + valid + ` returning actor
	)
	insert into logins (digest, kind, instance, actor, ends_at)
	select $3, 'session', $2, actor, clock_timestamp() + $4 from used
	returning actor`
	actor, err = one(l.Pool.QueryRow(ctx, q, digestOf(token), l.Instance, digest, sessionLasts))
	return secret, actor, err
}

// end ends a session.
func (l Logins) end(ctx context.Context, secret string) error {
	if _, err := l.Pool.Exec(ctx, "delete from logins where digest = $1", digestOf(secret)); err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	return nil
}

// one reads an actor, errNoLogin where there is none.
func one(row pgx.Row) (actor string, err error) {
	err = row.Scan(&actor)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errNoLogin
	}
	if err != nil {
		return "", fmt.Errorf("look for the login: %w", err)
	}
	return actor, nil
}

// newSecret is 256 bits by chance, as text, and their digest.
func newSecret() (secret string, digest []byte) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret = base64.RawURLEncoding.EncodeToString(raw)
	return secret, digestOf(secret)
}

func digestOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
