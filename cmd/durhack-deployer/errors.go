package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
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

// errFailing is the end of `status --exit-code` where a deployment has failed.
var errFailing = errors.New("a deployment has failed")

// report prints err with what to do about it, and returns the exit code. cmd is
// the command that was called, as far as it could be told; it may be nil.
func report(w io.Writer, cmd *cobra.Command, err error) int {
	var usage *usageError
	var many *config.Errors
	switch {
	case err == nil, errors.Is(err, errReaderLeft):
		return exitDone
	case errors.Is(err, errDecisionsChange): // the output says which
		return exitChange
	case errors.Is(err, errFailing): // the output says which
		return exitError
	case errors.As(err, &many):
		for _, line := range strings.Split(strings.TrimSpace(many.Error()), "\n") {
			fmt.Fprintln(w, printable(line))
		}
		fmt.Fprintln(w, "hint: fix the lines above, then run `durhack-deployer config check`")
		return exitError
	}
	text, next := err.Error(), hint(err)
	var refused *act.Error
	wrong := errors.As(err, &usage) || errors.As(err, &refused) && refused.Wrong
	if none, ok := errors.AsType[*answer.Error](err); ok && none.Kind != answer.UnknownDelivery {
		wrong = true
	}
	if errors.Is(err, context.Canceled) {
		text = "stopped"
	}
	fmt.Fprintf(w, "durhack-deployer: %s\n", printableLines(text))
	if wrong {
		switch {
		case next != "":
		case cmd == nil || !cmd.HasParent():
			next = "`durhack-deployer --help` lists the commands"
		default:
			next = fmt.Sprintf("usage: `%s`; --help shows more", cmd.UseLine())
		}
	}
	if next != "" {
		fmt.Fprintf(w, "hint: %s\n", printable(next))
	}
	if wrong {
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
	var refused *act.Error
	if errors.As(err, &refused) && refused.Hint != "" {
		return refused.Hint
	}
	if none, ok := errors.AsType[*answer.Error](err); ok && none.Hint != "" {
		return none.Hint
	}
	if next := daemon.StoreHint(err); next != "" {
		return next
	}
	if errors.Is(err, fs.ErrPermission) {
		return "run it as the user that the daemon runs as, or as root"
	}
	return ""
}

// The exit codes are part of the contract.
const (
	exitDone  = 0
	exitError = 1
	exitUsage = 2
	// exitChange is that of a simulation in which decisions change.
	exitChange = 3
)

// errReaderLeft says that nobody wants the rest of the output.
var errReaderLeft = errors.New("the reader of the output has left")

// errDecisionsChange is the end of a simulation that found some: exit code 3.
var errDecisionsChange = errors.New("decisions would change")
