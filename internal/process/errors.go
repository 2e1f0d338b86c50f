package process

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// ExitError says that a program ended by itself (or by somebody else's signal)
// without success.
type ExitError struct {
	Program string
	// Code is the exit code, or -1 where Signal is set.
	Code int
	// Signal is the name of the signal that ended the program, as in "SIGKILL".
	Signal string
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("%s was killed by %s", e.Program, e.Signal)
	}
	return fmt.Sprintf("%s exited with code %d", e.Program, e.Code)
}

// StoppedError says that we ended a program because its context ended.
type StoppedError struct {
	Program string
	// Cause is the cause of the context.
	Cause error
	// Signal is the signal that ended the program; empty where it exited on its
	// own after TERM, or was never started.
	Signal string
}

func (e *StoppedError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("%s was stopped with %s: %v", e.Program, e.Signal, e.Cause)
	}
	return fmt.Sprintf("%s was stopped: %v", e.Program, e.Cause)
}

// Unwrap returns the cause.
func (e *StoppedError) Unwrap() error { return e.Cause }

// NotFoundError says that there is no such program.
type NotFoundError struct {
	Program string
	// Searched are the directories that were looked at, in order; empty for a
	// program that was named by a path.
	Searched []string
	// Detail is what was found instead, as in "is not executable"; may be empty.
	Detail string
}

func (e *NotFoundError) Error() string {
	what := fmt.Sprintf("program %q was not found", e.Program)
	if e.Detail != "" {
		what = fmt.Sprintf("program %q cannot be run: %s", e.Program, e.Detail)
	}
	switch {
	case strings.Contains(e.Program, "/"):
		return what
	case len(e.Searched) == 0:
		return what + "; executable_search_paths and PATH are both empty"
	}
	return fmt.Sprintf("%s; searched %s (add its directory to executable_search_paths)", what, strings.Join(e.Searched, ":"))
}

// StartError says that a program is there and could not be started.
type StartError struct {
	Program string
	Path    string
	Err     error
}

func (e *StartError) Error() string {
	switch {
	case errors.Is(e.Err, syscall.ENOEXEC):
		return fmt.Sprintf("start %s: it is neither a binary for this machine nor a script that begins with #!", e.Path)
	case errors.Is(e.Err, syscall.ENOENT) && !strings.Contains(e.Err.Error(), "chdir"):
		return fmt.Sprintf("start %s: the interpreter that its first line names is missing", e.Path)
	}
	return fmt.Sprintf("start %s: %v", e.Program, e.Err)
}

// Unwrap returns the system's error.
func (e *StartError) Unwrap() error { return e.Err }
