package localpg_test

import (
	"context"
	"log/slog"
)

// cancelOn returns a logger that cancels a context at a message.
func cancelOn(cancel context.CancelFunc, message string) *slog.Logger {
	return slog.New(canceller{cancel, message})
}

type canceller struct {
	cancel  context.CancelFunc
	message string
}

func (c canceller) Enabled(context.Context, slog.Level) bool { return true }

func (c canceller) Handle(_ context.Context, r slog.Record) error {
	if r.Message == c.message {
		c.cancel()
	}
	return nil
}

func (c canceller) WithAttrs([]slog.Attr) slog.Handler { return c }

func (c canceller) WithGroup(string) slog.Handler { return c }
