//go:build race

package integration

// raced says that this binary, and so the daemon that it builds, has the race
// detector in it: it is then several times slower and larger.
const raced = true
