package check

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestDoctor_SpaceJudge(t *testing.T) {
	t.Parallel()
	const block = 4096
	for name, test := range map[string]struct {
		blocks, inodes, free uint64
		want                 Level
		text                 string
	}{
		"full":                      {0, 1 << 20, 1 << 20, Fail, "0 MiB free"},
		"nearly full":               {99 << 20 / block, 1 << 20, 1 << 20, Fail, "99 MiB free"},
		"little":                    {500 << 20 / block, 1 << 20, 1 << 20, Warn, "500 MiB free"},
		"no inodes":                 {10 << 30 / block, 1 << 20, 0, Fail, "10.0 GiB free, but room for only 0 more files (inodes)"},
		"plenty":                    {10 << 30 / block, 1 << 20, 1 << 20, OK, "10.0 GiB free"},
		"inodes made as needed":     {10 << 30 / block, 0, 0, OK, "10.0 GiB free"},
		"full, and inodes as well":  {0, 1 << 20, 3, Fail, "0 MiB free, but room for only 3 more files (inodes)"},
		"exactly what is asked for": {1 << 30 / block, 1 << 20, 1000, OK, "1.0 GiB free"},
	} {
		level, text := judge(unix.Statfs_t{Bsize: block, Bavail: test.blocks, Bfree: test.blocks + 1, Files: test.inodes, Ffree: test.free})
		if level != test.want || text != test.text {
			t.Errorf("%s: %s %q, want %s %q", name, level, text, test.want, test.text)
		}
	}
}
