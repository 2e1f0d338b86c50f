package helper

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Here does in this process, as its user, what the rules allow: for a deployer that is
// root itself, or whose nginx and certbot are its own user's.
type Here struct{ Rules }

// Call is Client.Call without a helper.
func (h Here) Call(ctx context.Context, r Request, out io.Writer) error {
	what := strings.Join(append([]string{r.Verb}, r.Args...), " ")
	todo, err := h.task(r, peer{os.Getuid(), os.Getpid()})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if out == nil {
		out = io.Discard
	}
	ctx, cancel := context.WithTimeoutCause(ctx, verbWithin, fmt.Errorf("%s took longer than %v", r.Verb, verbWithin))
	defer cancel()
	do := todo.run
	if r.Dry {
		do = todo.try
	}
	if err := do(ctx, out); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// signal has nginx reload itself, where there is no systemd to ask.
func (n Nginx) signal() task {
	argv := append(slices.Clone(n.Command), "-s", "reload")
	return task{
		try: func(_ context.Context, out io.Writer) error { return tryProgram(out, argv...) },
		run: func(ctx context.Context, out io.Writer) error { return program(ctx, out, argv...) },
	}
}
