# Sourced by the scripts that build Go programs for the tests.
#
# built_once OUT STAMP_FILE NAME FILE...   ends the script where OUT is there and STAMP_FILE says that it was made of these files;
# otherwise takes a lock that lasts as long as the script, and leaves in `stamp` what the script writes there when OUT is done.
built_once() {
    local out=$1 stamp_file=$2 name=$3
    shift 3
    stamp=$(cat "$@" | sha256sum | cut -d" " -f1)
    is_built() { [ -e "$out" ] && [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ]; }
    if is_built; then exit 0; fi
    command -v go >/dev/null || { echo "Go is missing: $name cannot be built (https://go.dev/dl)" >&2; exit 1; }
    mkdir -p "$(dirname "$out")"
    # Several checkouts may come here at once.
    exec 9>"$out.lock"
    flock 9
    if is_built; then exit 0; fi
    echo "building $name for the tests; the first time takes minutes"
}
