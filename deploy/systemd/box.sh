# box.sh SCRIPT, in the box, as root: what its scripts share, and then SCRIPT itself, in
# the root of the checkout.
set -euo pipefail
cd /root/checkout
. deploy/systemd/lines.sh

unit=durhack-deployer.service
socket=durhack-deployer.socket
user=durhack-deployer
url=http://127.0.0.1:3400/github-webhook
repo=/srv/git/hello.git
work=/root/hello

say() { echo "== $*"; }
fail() {
  echo "FAILED: $*" >&2
  systemctl status --no-pager "$unit" >&2 || true
  journalctl --no-pager -u "$unit" -n 80 >&2 || true
  deployer log >&2 || true
  exit 1
}
deployer() { runuser -u "$user" -- durhack-deployer "$@"; }
until_true() { # until_true SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "not in time: $what"
    sleep 0.2
  done
}

# git_commit TEXT [SLOW] commits to the remote, and sets commit.
git_commit() {
  echo "$1" > "$work/index.html"
  rm -f "$work/slow"
  [ -z "${2-}" ] || touch "$work/slow"
  git -C "$work" add -A
  git -C "$work" -c user.name=Test -c user.email=test@example.com commit -q -m "$1"
  git -C "$work" push -q "$repo" HEAD:main
  chown -R "$user:" "$repo"
  commit=$(git -C "$work" rev-parse HEAD)
}

# sign REPOSITORY COMMIT makes what GitHub would send: body and signature.
sign() {
  body=$(printf '{"ref":"refs/heads/main","after":"%s","deleted":false,"repository":{"full_name":"%s"},"sender":{"login":"octocat"}}' "$2" "$1")
  signature=$(printf '%s' "$body" | openssl dgst -sha256 -hmac "$secret" | sed 's/.*= //')
}
# post DELIVERY sends that; the answer goes to a file, the code to standard output.
post() {
  curl -sS -m 60 -o "/tmp/answer-$1" -w '%{http_code}' --data-binary "$body" -H 'Content-Type: application/json' \
    -H 'X-GitHub-Event: push' -H "X-GitHub-Delivery: $1" -H "X-Hub-Signature-256: sha256=$signature" "$url"
}
# push COMMIT DELIVERY sends a push that is accepted.
push() {
  local body signature code
  sign durhack/hello "$1"
  code=$(post "$2") || true
  [ "$code" = 202 ] || fail "push $2 was answered $code: $(cat "/tmp/answer-$2")"
}
# hammer CLIENT [TIMES] sends pushes until there is /tmp/enough, and notes those that were
# refused. One that is cut off, as by kill -9, is sent up to so many TIMES.
hammer() {
  local n=0 code left
  until [ -e /tmp/enough ]; do
    n=$((n + 1)) code=000
    for ((left = ${2-1}; left > 0; left--)); do
      [ "$code" != 000 ] || code=$(post "load-$1-$n" 2> "/tmp/curl-$1") || true
    done
    [ "$code" = 202 ] || echo "load-$1-$n: $code $(cat "/tmp/curl-$1")" >> "/tmp/refused-$1"
    rm -f "/tmp/answer-load-$1-$n"
  done
  echo $n > "/tmp/sent-$1"
}
has_event() { deployer log --json --delivery "$1" --type "$2" 2> /dev/null | grep . > /dev/null; }
# deploys DELIVERY TEXT [SLOW] pushes it.
deploys() {
  git_commit "${@:2}"
  push "$commit" "$1"
}
ended() { deployer log --json --delivery "$1" 2> /dev/null | grep -E '"type":"(deployed|failed)"' > "/tmp/end-$1"; }
# ends DELIVERY TYPE waits for its end, which must be that.
ends() {
  until_true 100 "the end of $1" ended "$1"
  [ "$(grep -c "\"type\":\"$2\"" "/tmp/end-$1")" = "$(wc -l < "/tmp/end-$1")" ] || fail "$1 ended otherwise: $(cat "/tmp/end-$1"; deployer logs "$1")"
}
# failed_with DELIVERY WORDS says whether it failed for that.
failed_with() { grep -e "$2" "/tmp/end-$1" > /dev/null || fail "$1 failed otherwise: $(cat "/tmp/end-$1")"; }
is_live() { [ "$(cat /srv/www/live.html 2> /dev/null)" = "$1" ]; }
goes_live() { # goes_live DELIVERY TEXT
  ends "$1" deployed
  is_live "$2" || fail "$1 is deployed, but live.html is: $(cat /srv/www/live.html)"
}
main_pid() { systemctl show --value -p MainPID "$unit"; }
main_runs() { [ "$(main_pid)" != 0 ]; }
kill_main() {
  local old
  until_true 10 "a main process" main_runs # kill 0 would end this script
  old=$(main_pid)
  kill -9 "$old"
  restarted() { systemctl is-active -q "$unit" && [ "$(main_pid)" != "$old" ] && [ "$(main_pid)" != 0 ]; }
  until_true 60 "a restart after kill -9" restarted
}

# docs NAME [FILE] runs lines of docs/operations.md, or FILE, as they stand there.
docs() {
  docs_lines "$@" > /tmp/lines || fail "no lines of the document: $1"
  sed 's/^/+ /' /tmp/lines
  . /tmp/lines
}
# What cannot be run without a network was done outside, and is looked at here.
apt-get() {
  [ "$1" = install ] || return 0
  local package
  for package in "${@:2}"; do
    case $package in -*) ;; *) dpkg-query -W "$package" > /dev/null || fail "package $package is not installed" ;; esac
  done
}
go() { [ -x bin/durhack-deployer ] || fail "there is no bin/durhack-deployer"; }

# install_deployer does what docs/operations.md says, and makes the remote that is pushed to.
install_deployer() {
  say "install"
  docs install
  [ "$(stat -c '%U:%G %a' /etc/durhack-deployer)" = "root:$user 750" ] || fail "/etc/durhack-deployer: $(stat -c '%U:%G %a' /etc/durhack-deployer)"
  [ "$(stat -c '%U:%G %a' /var/lib/durhack-deployer)" = "$user:$user 751" ] || fail "/var/lib/durhack-deployer: $(stat -c '%U:%G %a' /var/lib/durhack-deployer)"
  systemd-analyze verify "/etc/systemd/system/$unit" "/etc/systemd/system/$socket" 2>&1 | tee /tmp/verify
  [ ! -s /tmp/verify ] || fail "systemd-analyze verify has complaints"

  install -d -o "$user" -g "$user" /srv/git
  git config --global --add safe.directory '*' # root pushes to the deployer's repository
  git init -q --bare -b main "$repo"
  git init -q -b main "$work"
}

# configure writes the configuration, with what comes on standard input in its middle, and
# starts the deployer with it as docs/operations.md says.
configure() {
  {
    printf 'instance = "box"\nwebhook_secret_file = "/etc/durhack-deployer/webhook-secret"\n\n'
    cat
    printf '\n[listen]\nhost = "127.0.0.1"\n'
  } > deployer.toml
  docs configure
  secret=$(cat /etc/durhack-deployer/webhook-secret)
}

install_deployer
. "$1"
say "ok"
