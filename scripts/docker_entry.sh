#!/bin/sh
# What `docker run vla_cl WORDS` does: `quickstart` is the preset of `make quickstart`, everything else goes to vla-cl.
set -eu
if [ "${1:-}" = quickstart ]; then
    shift
    exec vla-cl run --preset quickstart strategy=sequential,replay --jobs 2 "$@"
fi
exec vla-cl "$@"
