# docs_lines NAME [FILE] prints the lines of docs/operations.md, or FILE, that are marked
# with <!-- run in the box: NAME -->. It is sourced in the root of the checkout.
docs_lines() {
  awk -v mark="<!-- run in the box: $1 -->" '
    $0 == mark { on = 1; next }
    on && /^    / { print substr($0, 5); n++ }
    on && !/^    / && !/^$/ { exit }
    END { if (!n) { print FILENAME " has no lines for " mark > "/dev/stderr"; exit 1 } }
  ' "${2-docs/operations.md}"
}
