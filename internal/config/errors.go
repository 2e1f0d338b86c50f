package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with the configuration. Its text never
// contains the value of a secret.
type Error struct {
	// File is the path as it was given or found; empty where no file is to
	// blame (an environment variable, or a setting that is missing everywhere).
	File string
	// Line and Column count from 1, in lines and bytes; 0 where the whole file is meant.
	Line, Column int
	// Key is the dotted path of the setting, as in "deployments.web.branch".
	Key     string
	Message string
	// Suggestion says what to do about it, as in `did you mean "branch"?`; may be empty.
	Suggestion string
}

// Error renders "file:line:column: message; suggestion", without the parts that are not known.
func (e *Error) Error() string {
	text := place(e.File, e.Line, e.Column) + e.Message
	if e.Suggestion != "" {
		text += "; " + e.Suggestion
	}
	return text
}

// Warning is something that was accepted but does not do what it seems to.
type Warning struct {
	// File, Line and Key are as in Error.
	File    string
	Line    int
	Key     string
	Message string
}

// String renders "file:line: message".
func (w Warning) String() string { return place(w.File, w.Line, 0) + w.Message }

func place(file string, line, column int) string {
	switch {
	case file == "":
		return ""
	case line == 0:
		return file + ": "
	case column == 0:
		return fmt.Sprintf("%s:%d: ", file, line)
	}
	return fmt.Sprintf("%s:%d:%d: ", file, line, column)
}

// Errors is everything that is wrong with the configuration, in the order of
// the files and, within one, of its lines. It is never empty.
type Errors struct {
	List []*Error
}

// Error renders one problem a line.
func (e *Errors) Error() string {
	lines := make([]string, len(e.List))
	for i, problem := range e.List {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each *Error.
func (e *Errors) Unwrap() []error {
	list := make([]error, len(e.List))
	for i, problem := range e.List {
		list[i] = problem
	}
	return list
}

// sortErrors orders by file (in the order of loading, those without a file
// last), line and column, and drops repetitions: a file that is given twice is
// wrong once.
func sortErrors(list []*Error, files []string) []*Error {
	rank := func(file string) int {
		if i := slices.Index(files, file); i >= 0 {
			return i
		}
		if file == "" {
			return len(files) + 1
		}
		return len(files)
	}
	slices.SortStableFunc(list, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(rank(a.File), rank(b.File)), cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key),
		)
	})
	return slices.CompactFunc(list, func(a, b *Error) bool { return *a == *b })
}
