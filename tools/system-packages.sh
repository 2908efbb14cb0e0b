#!/usr/bin/env bash
# Installs what pip cannot and tests need: chromium opens the report as a reader would, strace makes
# system calls fail, faketime sets clocks wrong, a Chinese font draws Chinese labels.  Does nothing
# where they are there already, or where they cannot be installed (no root, no apt-get).  A failed
# installation is a warning on a desk and an error under CI=true, where tests that skip themselves would
# go unnoticed.
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
    command -v google-chrome >/dev/null || missing+=(chromium)
for tool in strace faketime git; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
chinese='wqy|NotoSans(Mono)?(CJK|SC)|SourceHanSans|DroidSansFallback|msyh|simhei'
if [ "$(uname)" = Linux ]; then
    installed="$(find /usr/share/fonts /usr/local/share/fonts ~/.fonts ~/.local/share/fonts -type f 2>/dev/null || true)"
    grep -Eqi "$chinese" <<<"$installed" || missing+=(fonts-wqy-microhei)
fi
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "system-packages: no ${missing[*]}, and no root or apt-get to install them; their tests will be skipped"
    exit 0
fi

echo "system-packages: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    exit 0
fi

{
    tail -n 20 "$log"
    echo
    echo "#### WARNING: could not install ${missing[*]}; the tests that need them are skipped ####"
} >&2
if [ "${CI:-}" = "true" ]; then exit 1; fi
exit 0
