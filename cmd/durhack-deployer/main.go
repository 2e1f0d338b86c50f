// Command durhack-deployer deploys a team's apps when they push to GitHub, and
// answers what is live, who put it there, when, and why a push did or did not
// deploy. See `durhack-deployer --help`.
package main

import (
	"os"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

func main() {
	if code, ok := process.Init(); ok {
		os.Exit(code)
	}
	os.Exit(run(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}
