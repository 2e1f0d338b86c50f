package eventlog

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestTransientIsWhatPassesByItself(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"0A000": true, // cannot set transaction read-write mode during recovery
		"25006": true, // read_only_sql_transaction
		"53100": true, // disk_full
		"53300": true, // too_many_connections
		"57P03": true, // cannot_connect_now
		"40001": true, "08006": true, "55P03": true, "58030": true, "25P03": true,
		"57P04": false, // database_dropped
		"42501": false, // insufficient_privilege
		"42P01": false, // undefined_table
		"23514": false, "22P02": false, "54000": false, "XX001": false,
	} {
		if got := Transient(&pgconn.PgError{Code: code}); got != want {
			t.Errorf("%s: transient is %t, want %t", code, got, want)
		}
	}
	if Transient(context.Canceled) || !Transient(errors.New("connection reset by peer")) {
		t.Error("without an answer of Postgres")
	}
}
