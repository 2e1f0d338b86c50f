package daemon

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/migrations"
)

func TestStoreHintNamesTheCause(t *testing.T) {
	for want, err := range map[string]error{
		"newer durhack-deployer":   &migrations.TooNewError{Have: 9, Want: 4},
		"durhack-deployer migrate": &migrations.TooOldError{Have: 1, Want: 4},
		"pgbouncer":                &pgconn.PgError{Code: "42P05", Message: `prepared statement "s" already exists`},
		"promote":                  &pgconn.PgError{Code: "0A000"},
		"room on the disk":         &pgconn.PgError{Code: "53100"},
		"is Postgres up?":          &pgconn.ConnectError{},
	} {
		if got := StoreHint(fmt.Errorf("open: %w", err)); !strings.Contains(got, want) {
			t.Errorf("%T: %q, want one about %q", err, got, want)
		}
	}
	if got := StoreHint(errors.New("anything")); got != "" {
		t.Errorf("an unknown error: %q", got)
	}
}
