package main

import (
	"os/user"
	"strconv"
	"testing"
)

func TestActor(t *testing.T) {
	t.Parallel()
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	const unknown = 1<<31 - 7 // a uid that no machine gives out
	for _, test := range []struct {
		uid        int
		sudo, want string
	}{
		{0, "ann", "ann"},
		{0, "", "root"},
		{unknown, "", "uid 2147483641"},
		{unknown, "ann", "uid 2147483641"},
	} {
		if got := actorOf(test.uid, test.sudo); got != test.want {
			t.Errorf("actorOf(%d, %q) = %q, want %q", test.uid, test.sudo, got, test.want)
		}
	}
	if got := actorOf(uid, "root"); got != "nobody" {
		t.Errorf("SUDO_USER of somebody who is not root is trusted: %q", got)
	}
}
