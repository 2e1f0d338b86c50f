package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

// usageError is a wrong call: exit code 2.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// hintedError says what to do next.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// silentError is a failure whose words have been printed already.
type silentError struct{}

func (silentError) Error() string { return "failed" }

// report prints err with what to do about it, and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	var usage *usageError
	var silent silentError
	var many *config.Errors
	switch {
	case errors.As(err, &silent):
		return exitError
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(w, "durhack-deployer: stopped")
		return exitError
	case errors.As(err, &many):
		for _, line := range strings.Split(strings.TrimSpace(many.Error()), "\n") {
			fmt.Fprintln(w, printable(line))
		}
		fmt.Fprintln(w, "hint: mend the lines above, then see `durhack-deployer config check`")
		return exitError
	}
	fmt.Fprintf(w, "durhack-deployer: %s\n", printableLines(err.Error()))
	if h := hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", h)
	}
	if errors.As(err, &usage) {
		fmt.Fprintln(w, "hint: `durhack-deployer --help` lists the commands, `durhack-deployer COMMAND --help` their flags")
		return exitUsage
	}
	return exitError
}

// hint names the next step for errors whose cause lies outside.
func hint(err error) string {
	var hinted *hintedError
	if errors.As(err, &hinted) {
		return hinted.hint
	}
	var tooNew *migrations.TooNewError
	if errors.As(err, &tooNew) {
		return "install the newer durhack-deployer that migrated this database, or restore the database of this one"
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // undefined_table
		return "run `durhack-deployer migrate` first"
	}
	var connect *pgconn.ConnectError
	var op *net.OpError
	if errors.As(err, &connect) || errors.As(err, &op) && op.Op == "dial" {
		return "is Postgres up? check database_url (or DATABASE_URL); without either, a private server in state_dir is used"
	}
	return ""
}
