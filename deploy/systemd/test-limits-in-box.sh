#!/bin/bash
# Limits of runs in the box, as root. Where the box's control groups have the controllers,
# a step that uses more memory than it may is killed, and one that does not goes live; where
# they have not, as under a host that has them in version 1, that is said and runs go on.

configure <<TOML
[deployments.hello]
repository = "durhack/hello"
branch = "main"
remote = "$repo"
path = "/srv/www/hello"
memory_max = "64M"
tasks_max = 50

[[deployments.hello.steps]]
name = "think"
run = ["sh", "-c", "if [ -e slow ]; then head -c 200000000 /dev/zero | tail > /dev/null; fi"]

[[deployments.hello.steps]]
name = "publish"
run = ["cp", "index.html", "/srv/www/live.html"]
TOML

cgroup=/sys/fs/cgroup/system.slice/$unit
idle='memory_max and tasks_max .*do nothing'

say "a run within its limits goes live"
deploys limits-1 one
goes_live limits-1 one

say "a run that uses more than it may"
deploys limits-2 two slow
deployer doctor > /tmp/doctor || true
deployer config check > /tmp/check 2>&1 || fail "config check: $(cat /tmp/check)"
if [ "$(tr ' ' '\n' < /sys/fs/cgroup/cgroup.controllers | grep -cxE 'memory|pids')" = 2 ]; then
  until_true 60 "limits-2 failed" has_event limits-2 failed
  deployer log --json --delivery limits-2 --type failed | grep -F 'it used more than memory_max = \"64M\"' || fail "the event: $(deployer log --json --delivery limits-2 --type failed)"
  is_live one || fail "live.html is: $(cat /srv/www/live.html)"
  [ "$(cat "$cgroup/daemon/cgroup.procs" | grep -cx "$(main_pid)")" = 1 ] || fail "the daemon is in $(cat "/proc/$(main_pid)/cgroup")"
  if grep "$idle" /tmp/doctor /tmp/check; then fail "the limits are said to do nothing"; fi
  say "the next one goes live, also after a restart, and kill -9"
  git_commit three
  systemctl restart "$unit" || fail "it does not start again"
  kill_main
  push "$commit" limits-3
  goes_live limits-3 three
  if compgen -G "$cgroup/run-*"; then fail "the groups above are left"; fi
else
  goes_live limits-2 two
  for said in /tmp/doctor /tmp/check; do
    grep "$idle" "$said" || fail "nothing is said of limits that do nothing: $(cat "$said")"
  done
  deployer logs limits-2 | grep "$idle" || fail "the run log: $(deployer logs limits-2)"
  journalctl --no-pager -u "$unit" | grep "$idle" > /dev/null || fail "the journal says nothing"
fi
deployer verify || fail "verify finds breaches"
systemctl stop "$socket" "$unit"
[ "$(systemctl show --value -p Result "$unit")" = success ] || fail "the stop was not clean"
