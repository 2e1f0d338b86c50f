package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// command is a call of this program, with the configuration of this call, that
// can be copied to a shell as it is.
func (c *cli) command(args ...string) string {
	argv := append(self(), args...)
	for _, path := range c.configPaths {
		argv = append(argv, "--config", path)
	}
	return quoteArgv(argv)
}

// self is how the program was called.
func self() []string {
	const name = "durhack-deployer"
	exe, err := os.Executable()
	if err != nil {
		return []string{name}
	}
	if strings.Contains(exe, "go-build") { // go run, from the root of the repository
		if _, err := os.Stat("cmd/" + name + "/main.go"); err == nil {
			return []string{"go", "run", "./cmd/" + name}
		}
		return []string{exe}
	}
	if found, err := exec.LookPath(name); err == nil && same(found, exe) {
		return []string{name}
	}
	if strings.Contains(os.Args[0], "/") {
		return []string{os.Args[0]}
	}
	return []string{exe}
}

func same(a, b string) bool {
	a, errA := filepath.EvalSymlinks(a)
	b, errB := filepath.EvalSymlinks(b)
	return errA == nil && errB == nil && a == b
}

// actor is the person at the command line, for the log.
func actor() string { return actorOf(os.Geteuid(), os.Getenv("SUDO_USER")) }

// actorOf trusts SUDO_USER only of root, who can be anybody anyway: others
// would sign with any name. Nor is USER trusted, which os/user does where
// /etc/passwd does not have the user, so that is read here.
func actorOf(uid int, sudoUser string) string {
	if uid == 0 && sudoUser != "" {
		return sudoUser
	}
	id := strconv.Itoa(uid)
	passwd, _ := os.ReadFile("/etc/passwd") // without it there is still the number
	for line := range strings.Lines(string(passwd)) {
		if field := strings.Split(line, ":"); len(field) > 2 && field[2] == id {
			return field[0]
		}
	}
	return "uid " + id
}
