# What the scripts share that run in the box, as root, in the root of the checkout.
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
# hammer CLIENT sends pushes until there is /tmp/enough, and notes those that were refused.
hammer() {
  local n=0 code
  until [ -e /tmp/enough ]; do
    n=$((n + 1))
    code=$(post "load-$1-$n" 2>> "/tmp/refused-$1") || true
    [ "$code" = 202 ] || echo "load-$1-$n: $code" >> "/tmp/refused-$1"
    rm -f "/tmp/answer-load-$1-$n"
  done
  echo $n > "/tmp/sent-$1"
}
has_event() { deployer log --json --delivery "$1" --type "$2" 2> /dev/null | grep . > /dev/null; }
is_live() { [ "$(cat /srv/www/live.html 2> /dev/null)" = "$1" ]; }
goes_live() { # goes_live DELIVERY TEXT
  until_true 60 "$1 deployed" has_event "$1" deployed
  is_live "$2" || fail "$1 is deployed, but live.html is: $(cat /srv/www/live.html)"
}
main_pid() { systemctl show --value -p MainPID "$unit"; }
kill_main() {
  local old
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
