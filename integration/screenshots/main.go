// Screenshots takes the pictures of the dashboard in docs/screenshots, of the demo:
//
//	go run ./integration/screenshots [DIR]
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/browsertest"
)

// limit is for all of it.
const limit = 5 * time.Minute

// address is how the demo tells of the dashboard.
var address = regexp.MustCompile(`http://[0-9.]+:[0-9]+`)

func main() {
	dir := filepath.Join("docs", "screenshots")
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	err := run(ctx, dir)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

// picture is one file.
type picture struct {
	name, path string
	width      int
	dark       bool
}

func run(ctx context.Context, dir string) (err error) {
	tmp, err := os.MkdirTemp("", "durhack-screenshots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o711); err != nil { //nolint:gosec // the private Postgres runs as another user
		return err
	}
	program := filepath.Join(tmp, "durhack-deployer")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/durhack-deployer")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the program: %w", err)
	}
	demo := exec.CommandContext(ctx, program, "demo")
	demo.Stderr = os.Stderr
	demo.Cancel = func() error { return demo.Process.Signal(syscall.SIGTERM) }
	out, err := demo.StdoutPipe()
	if err != nil {
		return err
	}
	if err := demo.Start(); err != nil {
		return fmt.Errorf("start the demo: %w", err)
	}
	defer func() {
		_ = demo.Process.Signal(syscall.SIGTERM) // it may have ended
		_, _ = io.Copy(io.Discard, out)
		_ = demo.Wait()
	}()
	base, err := firstAddress(out)
	if err != nil {
		return err
	}
	b, err := browsertest.Start(ctx, filepath.Join(tmp, "profile"))
	if err != nil {
		return err
	}
	defer b.Close()
	failed, err := awaitDemo(ctx, b, base)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // pictures are for everybody
		return err
	}
	for _, p := range []picture{
		{"deployments", "/", 1280, false}, {"deployments-dark", "/", 1280, true}, {"deployments-phone", "/", 360, false},
		{"delivery", failed, 1280, false}, {"delivery-phone", failed, 360, true},
		{"at", "/at", 1280, false}, {"proof", "/proof", 1280, false},
	} {
		if err := take(b, base, dir, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// firstAddress reads until the demo has said where the dashboard is.
func firstAddress(out io.Reader) (string, error) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if found := address.FindString(lines.Text()); found != "" {
			return found, nil
		}
	}
	return "", errors.Join(errors.New("the demo ended without the address of its dashboard"), lines.Err())
}

// awaitDemo waits until one deployment has failed and another runs, and returns the path of
// the delivery that failed.
func awaitDemo(ctx context.Context, b *browsertest.Browser, base string) (string, error) {
	t, err := b.Open(1280, 900)
	if err != nil {
		return "", err
	}
	defer t.Close()
	for ctx.Err() == nil {
		if err := t.Visit(base + "/"); err != nil {
			return "", err
		}
		failed, err := browsertest.Eval[string](t, `document.querySelector(".mark.running") && document.querySelector(".item.failed a[href^='/deliveries/']")?.getAttribute("href") || ""`)
		if err != nil {
			return "", err
		}
		if failed != "" {
			return failed, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return "", fmt.Errorf("the demo shows no failed and no running deployment: %w", ctx.Err())
}

func take(b *browsertest.Browser, base, dir string, p picture) error {
	t, err := b.Open(p.width, 800)
	if err != nil {
		return err
	}
	defer t.Close()
	if p.dark {
		if err := t.Dark(); err != nil {
			return err
		}
	}
	if err := t.Visit(base + p.path); err != nil {
		return err
	}
	png, err := t.Picture()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, p.name+".png")
	fmt.Println(file)
	return os.WriteFile(file, png, 0o644) //nolint:gosec // pictures are for everybody
}
