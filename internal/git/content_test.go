package git

import (
	"strings"
	"testing"
)

func TestFiles_OfACommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("first", map[string]string{
		"a/[x].conf": "one\n", "a/b/deep": "x", "a/ü\"\n": "odd name\x00\n\n", "ab/no": "no", "b": "no", "link/x": "y",
		".gitattributes": "* text eol=crlf\n",
	})
	w.sh(w.pusher, "ln -s /etc/passwd a/link && ln -s a dir")
	commit := w.commit("links", nil)
	r := Open(w.pusher, w.pusher, Options{})
	list, err := r.Files(t.Context(), commit, 100, "a", "link", "dir", "gone")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		got = append(got, f.Path+"="+string(f.Content))
		if f.Regular != (f.Path != "a/link" && f.Path != "dir") {
			t.Errorf("%+v", f)
		}
	}
	want := "a/[x].conf=one\n|a/b/deep=x|a/link=|a/ü\"\n=odd name\x00\n\n|dir=|link/x=y"
	if strings.Join(got, "|") != want {
		t.Errorf("the files are %q, want %q", strings.Join(got, "|"), want)
	}
	if _, err := r.Files(t.Context(), commit, 4, "a"); err == nil || !strings.Contains(err.Error(), "bytes, which is too many") {
		t.Errorf("a file that is too large: %v", err)
	}
	if list, err := r.Files(t.Context(), commit, 4, "gone"); err != nil || len(list) > 0 {
		t.Errorf("a directory that is not there: %v, %v", list, err)
	}
}
