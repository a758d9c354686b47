#!/usr/bin/env bash
# The browser that the tests drive: one that is there, else Debian's (needs root), else Playwright's own.
set -euo pipefail
bin=${1:?usage: tools/browser.sh FOLDER_OF_PYTHON}
if [ -n "${CHROMIUM:-}" ] || command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null && exit 0
fi
"$bin/playwright" install chromium && exit 0
echo "The browser tests need Chromium. Install it (Debian: sudo apt-get install chromium), or set CHROMIUM=/path/to/chrome." >&2
exit 1
