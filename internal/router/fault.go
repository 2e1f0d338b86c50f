package router

import (
	"errors"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// poisoned says whether the log refused a group for what is in it, so that
// trying again cannot help. Anything else (no permission, a missing table, a
// full disk) would befall every entry, and the entries wait.
func poisoned(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || len(refused.Code) != 5 {
		return false
	}
	switch refused.Code[:2] {
	case "22", // data exception
		"23", // integrity constraint violation
		"54": // program limit exceeded
		return true
	}
	return false
}

// exhausted says whether a file could not be read for want of something that
// may be there again in a moment, and not because of the file.
func exhausted(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
