package dashboard

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.MainNoLeaks(m)) }

func newLogins(t *testing.T) Logins {
	t.Helper()
	return Logins{Pool: pgtest.Migrated(t), Instance: "www1"}
}

func newToken(t *testing.T, l Logins) string {
	t.Helper()
	token, err := l.NewToken(t.Context(), "alex")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func redeemed(t *testing.T, l Logins) string {
	t.Helper()
	secret, actor, err := l.redeem(t.Context(), newToken(t, l))
	if err != nil || actor != "alex" {
		t.Fatalf("the token became the session of %q: %v", actor, err)
	}
	return secret
}

// shift moves all logins in time.
func shift(t *testing.T, l Logins, by string) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), l.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "set local role none"); err != nil { // the application may not
			return err
		}
		_, err := tx.Exec(t.Context(), "update logins set made_at = made_at + $1::interval, ends_at = ends_at + $1::interval", by)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLogins_TokenBecomesASessionOnce(t *testing.T) {
	t.Parallel()
	l := newLogins(t)
	token := newToken(t, l)
	for range 2 { // looking at it does not use it up
		if actor, err := l.offered(t.Context(), token); err != nil || actor != "alex" {
			t.Fatalf("the token is of %q: %v", actor, err)
		}
	}
	var won atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, _, err := l.redeem(t.Context(), token); err == nil {
				won.Add(1)
			} else if !errors.Is(err, errNoLogin) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("%d browsers have got a session by one token", won.Load())
	}
	if _, err := l.offered(t.Context(), token); !errors.Is(err, errNoLogin) {
		t.Errorf("a used token is answered with %v", err)
	}
}

func TestLogins_WhatIsNoSession(t *testing.T) {
	t.Parallel()
	l := newLogins(t)
	token, secret := newToken(t, l), redeemed(t, l)
	other := Logins{Pool: l.Pool, Instance: "www2"}
	for name, ask := range map[string]func() (string, error){
		"a token":                        func() (string, error) { return l.session(t.Context(), token) },
		"a made-up secret":               func() (string, error) { return l.session(t.Context(), "forged") },
		"nothing":                        func() (string, error) { return l.session(t.Context(), "") },
		"a session of another instance":  func() (string, error) { return other.session(t.Context(), secret) },
		"a token of another instance":    func() (string, error) { return other.offered(t.Context(), token) },
		"a session in place of a token":  func() (string, error) { return l.offered(t.Context(), secret) },
		"a digest in place of a session": func() (string, error) { return l.session(t.Context(), string(digestOf(secret))) },
	} {
		if actor, err := ask(); !errors.Is(err, errNoLogin) {
			t.Errorf("%s lets %q in: %v", name, actor, err)
		}
	}
	if _, _, err := l.redeem(t.Context(), secret); !errors.Is(err, errNoLogin) {
		t.Errorf("a session became another one: %v", err)
	}
	if actor, err := l.session(t.Context(), secret); err != nil || actor != "alex" {
		t.Errorf("the session is of %q: %v", actor, err)
	}
	if err := l.end(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if actor, err := l.session(t.Context(), secret); !errors.Is(err, errNoLogin) {
		t.Errorf("a session that was ended is of %q: %v", actor, err)
	}
}

func TestLogins_EndByThemselves(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, shift      string
		token, ofSession bool
	}{
		{"a token lasts for a minute", "-50 seconds", true, true},
		{"and no longer", "-61 seconds", false, true},
		{"a session lasts for a day", "-23 hours", false, true},
		{"and no longer, either", "-25 hours", false, false},
		{"a clock that steps back a little changes nothing", "30 seconds", true, true},
		{"one that steps back far ends all", "2 hours", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLogins(t)
			token, secret := newToken(t, l), redeemed(t, l)
			shift(t, l, test.shift)
			if _, err := l.session(t.Context(), secret); (err == nil) != test.ofSession {
				t.Errorf("the session: %v", err)
			}
			if _, _, err := l.redeem(t.Context(), token); (err == nil) != test.token {
				t.Errorf("the token: %v", err)
			}
		})
	}
}

func TestLogins_KeepNoSecretAndNothingThatIsOver(t *testing.T) {
	t.Parallel()
	l := newLogins(t)
	token, secret := newToken(t, l), redeemed(t, l)
	var kept int
	const q = "select count(*) from logins l where strpos(l::text, $1) > 0 or strpos(l::text, $2) > 0 or strpos(l::text, encode($1::bytea, 'hex')) > 0"
	if err := l.Pool.QueryRow(t.Context(), q, token, secret).Scan(&kept); err != nil || kept != 0 {
		t.Errorf("%d rows hold a secret: %v", kept, err)
	}
	shift(t, l, "-25 hours")
	newToken(t, l)
	if err := l.Pool.QueryRow(t.Context(), "select count(*) from logins").Scan(&kept); err != nil || kept != 1 {
		t.Errorf("%d rows are kept, and not the one that counts: %v", kept, err)
	}
}
