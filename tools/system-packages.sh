#!/usr/bin/env bash
# Installs what pip cannot: chromium, with which the tests open the report as a reader would.
# Does nothing where it is there already, or where it cannot be installed (no root, no apt-get).
# A failed installation is a warning on a desk and an error under CI=true, where tests that skip
# themselves for want of a browser would go unnoticed.
set -euo pipefail

for browser in chromium chromium-browser google-chrome; do
    if command -v "$browser" >/dev/null; then exit 0; fi
done

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "system-packages: no chromium, and no root or apt-get to install it; its tests will be skipped"
    exit 0
fi

echo "system-packages: installing chromium"
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >"$log" 2>&1 </dev/null &&
    command -v chromium >/dev/null; then
    exit 0
fi

{
    tail -n 20 "$log"
    echo
    echo "#### WARNING: chromium could not be installed; the tests that open the report are skipped ####"
} >&2
if [ "${CI:-}" = "true" ]; then exit 1; fi
exit 0
