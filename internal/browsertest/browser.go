// Package browsertest owns a Chromium without a screen, for tests of the dashboard's pages
// and for pictures of them.
package browsertest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Program is Debian's.
const Program = "chromium"

// Browser is a running Chromium. Close it.
type Browser struct {
	ctx   context.Context
	close func()
}

// Start starts one whose profile is in a directory of its own.
func Start(ctx context.Context, dir string) (*Browser, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:len(chromedp.DefaultExecAllocatorOptions):len(chromedp.DefaultExecAllocatorOptions)],
		chromedp.ExecPath(Program), chromedp.UserDataDir(dir), chromedp.DisableGPU, chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Env("HOME="+dir), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("lang", "en-GB"))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it has none for root
	}
	allocator, free := chromedp.NewExecAllocator(ctx, options...)
	first, cancel := chromedp.NewContext(allocator)
	b := &Browser{ctx: first, close: func() {
		_ = chromedp.Cancel(first) // it is ended below in any case
		cancel()
		free()
	}}
	if err := chromedp.Do(first); err != nil {
		b.close()
		return nil, fmt.Errorf("start %s: %w", Program, err)
	}
	return b, nil
}

// Close ends the browser.
func (b *Browser) Close() { b.close() }

// Tab is one page of the browser.
type Tab struct {
	ctx   context.Context
	close context.CancelFunc

	mu       sync.Mutex
	problems []string
}

// Open opens a tab without cookies, of a size in CSS pixels.
func (b *Browser) Open(width, height int) (*Tab, error) {
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t := &Tab{ctx: ctx, close: cancel}
	err := chromedp.Listen(ctx, t.heard)
	if err == nil {
		err = chromedp.Do(ctx, call(log.Enable, cdp.Empty{}), chromedp.EmulateViewport(int64(width), int64(height)))
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	return t, nil
}

// call makes an action of a command of the protocol.
func call[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func (t *Tab) heard(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Source == log.EntrySourceSecurity {
			t.problems = append(t.problems, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventExceptionThrown:
		t.problems = append(t.problems, fmt.Sprintf("a script failed: %v", e.ExceptionDetails))
	}
}

// Problems are what the browser complained of: what a policy forbade, what did not
// load, scripts that failed.
func (t *Tab) Problems() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.problems...)
}

// Close closes the tab.
func (t *Tab) Close() { t.close() }

// patience is how long something is tried that the page may get in the way of.
const patience = time.Minute

// moved are what the browser says where the page has become another one meanwhile.
var moved = regexp.MustCompile(`net::ERR_ABORTED|find node with given id|[Ee]xecution context was destroyed|[Cc]annot find context|navigated or closed`)

// again tries what fails because the page goes on by itself meanwhile.
func again[T any](t *Tab, action chromedp.Action[T]) (T, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		v, err := chromedp.Run(t.ctx, action)
		if err == nil || !moved.MatchString(err.Error()) || time.Now().After(deadline) {
			return v, err
		}
	}
}

// Visit loads a page, also while another, as the answer to a form, is about to come.
func (t *Tab) Visit(url string) error {
	if _, err := again(t, chromedp.Navigate(url)); err != nil {
		return fmt.Errorf("visit %s: %w", url, err)
	}
	return nil
}

// Eval runs a script in the page.
func Eval[T any](t *Tab, script string) (T, error) {
	v, err := again(t, chromedp.Evaluate[T](script))
	if err != nil {
		return v, fmt.Errorf("evaluate %s: %w", script, err)
	}
	return v, nil
}

// Press presses a key, or types a text.
func (t *Tab) Press(keys string) error { return chromedp.Do(t.ctx, chromedp.KeyEvent(keys)) }

// Click clicks what a CSS selector finds, once it is there. The page's script may put
// another in its place before it is clicked, which is then clicked instead.
func (t *Tab) Click(selector string) error {
	_, err := again(t, chromedp.Click(chromedp.CSS(selector)))
	return err
}

// Dark makes the pages think that the reader prefers dark colours.
func (t *Tab) Dark() error {
	return chromedp.Do(t.ctx, call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	}))
}

// WithoutScripts makes pages that are loaded from now on run no scripts of theirs.
func (t *Tab) WithoutScripts() error {
	return chromedp.Do(t.ctx, call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
}

// Picture is a PNG of the whole page.
func (t *Tab) Picture() ([]byte, error) {
	png, err := chromedp.Run(t.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		return nil, fmt.Errorf("take a picture: %w", err)
	}
	return png, nil
}
