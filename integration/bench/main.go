// Command bench measures the deployer against raw loops and peers, each in the
// same run on the same disk, and prints each line of a table with the targets as its
// row ends. It starts what
// it needs (the built program, a private Postgres, Debian's webhook) in a
// temporary directory, sends traffic to the loopback interface only, and removes
// everything. docs/performance.md explains the rows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// row is one measurement, which may print several lines of the table.
type row struct {
	name, what string
	run        func(ctx context.Context, b *bench) ([]result, error)
}

var rows = []row{
	{"ack", "durable acknowledgements against a raw loop of the same system calls", ack},
	{"peer", "durable acknowledgements against Debian's webhook, which stores nothing", peer},
	{"started", "from the POST to the committed `started`, against the sum of its parts", started},
	{"fanout", "from the POST to `started` behind a push to 100 deployments, against that alone", fanout},
	{"append", "events appended with 64 deliveries in flight, against one inserting connection", appendEvents},
	{"verify", "verify of the log against a scan that hashes the same rows, and its memory", verify},
	{"status", "status on a long log against a short one, and the memory of a rebuild", status},
	{"pages", "pages of the dashboard and answers of the API on a long log, against status and a short one", pages},
	{"start", "from the start of `serve` to the first push routed, on a long log against a short one", start},
	{"followers", "from the POST to the committed `started` beside 100 `log --follow`, against without", followers},
	{"streams", "from the POST to the committed `started` beside 200 event streams, against without, and their memory", streams},
	{"memory", "resident memory of listen and work", memory},
}

// limit bounds a run: rows that it cuts off are named, and can be measured alone.
const limit = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, progress io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	var names []string
	flags.Func("row", "measure only the row `NAME`; may be repeated: "+rowNames(), func(name string) error {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.name == name }) {
			return fmt.Errorf("there is no such row; one of %s", rowNames())
		}
		names = append(names, name)
		return nil
	})
	asJSON := flags.Bool("json", false, "print one JSON object a line instead of the table")
	rounds := flags.Int("rounds", 5, "measure each row `N` times and report the medians")
	dir := flags.String("dir", "", "work in a temporary directory inside `DIR`, whose disk is measured; default: the system's temporary directory, or /var/tmp where that is memory")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || *rounds < 1 {
		fmt.Fprintf(progress, "bench: %q is not understood; see --help\n", strings.Join(flags.Args(), " "))
		return 2
	}
	if err := measure(ctx, names, *dir, *rounds, *asJSON, out, progress); err != nil {
		fmt.Fprintf(progress, "bench: %v\n", err)
		return 1
	}
	return 0
}

func measure(ctx context.Context, names []string, dir string, rounds int, asJSON bool, out, progress io.Writer) (err error) {
	b, err := newBench(dir, rounds, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	m, err := describeMachine(b.dir)
	if err != nil {
		return err
	}
	show := printTable(out, m)
	if asJSON {
		show = printJSON(out, m)
	}
	limited, stop := context.WithTimeout(ctx, limit)
	defer stop()
	var failures []error
	for _, r := range rows {
		if len(names) > 0 && !slices.Contains(names, r.name) {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(progress, "%s: %s ...\n", r.name, r.what)
		got, err := r.run(limited, b)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if limited.Err() != nil {
			err = fmt.Errorf("not measured within %s of the start; measure it alone with --row %s", limit, r.name)
		}
		if err != nil { // the rows are independent
			failures = append(failures, fmt.Errorf("row %s: %w", r.name, err))
			fmt.Fprintf(progress, "%s: %v\n", r.name, err)
			continue
		}
		fmt.Fprintf(progress, "%s: done in %s\n", r.name, time.Since(begin).Round(time.Second/10))
		for i := range got {
			got[i].Row = r.name
		}
		if err := show(got); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

func rowNames() string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.name
	}
	return strings.Join(names, ", ")
}
