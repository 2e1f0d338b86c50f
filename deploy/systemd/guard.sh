#!/bin/sh
# The way back of a deployer that deploys itself: ExecStartPre=-/usr/local/lib/durhack-deployer/guard DIR
# in its unit, before each start. While a new version is in its probation (see
# docs/handlers/self.md) this counts its starts. After three, or a second one past the
# deadline, it puts the link back to the version before. No release replaces it.
dir=$1 state=${STATE_DIRECTORY%%:*}/self
probation=$state/probation.json
[ -r "$probation" ] || exit 0
field() { sed -n "s/^\"$1\": \"\{0,1\}\([A-Za-z0-9._-]*\).*/\1/p" "$probation"; }
[ "$(readlink "$dir/current")" = "releases/$(field to)" ] || exit 0
# Where it cannot be counted, as on a full disk, the deadline alone is asked.
starts=2
echo start >> "$state/starts" && starts=$(wc -l < "$state/starts")
[ "$(field one_way)" = false ] || exit 0
[ "$starts" -gt 3 ] || { [ "$starts" -gt 1 ] && [ "$(date +%s)" -gt "$(field deadline)" ]; } || exit 0
ln -sfn "releases/$(field from)" "$dir/current.back" && mv -T "$dir/current.back" "$dir/current" || exit 1
echo "version $(field to) did not come up in $((starts - 1)) starts; switched back to $(field from)" >&2
