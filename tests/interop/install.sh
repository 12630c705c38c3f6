#!/bin/sh
# Installs the WAMP clients that tests/interop.rs drives, in exact versions, under target/interop and nowhere else.
# Needs python3 (3.11 or later, with venv) and node (20 or later, with npm). Does nothing where nothing has changed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
home=${CARGO_TARGET_DIR:-$here/../../target}/interop
mkdir -p "$home"
home=$(cd "$home" && pwd)

if ! cmp -s "$here/requirements.txt" "$home/requirements.txt"; then
  python3 -m venv --clear "$home/venv"
  "$home/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --requirement "$here/requirements.txt"
  cp "$here/requirements.txt" "$home/requirements.txt" # last: it stands for "installed"
fi

if ! cmp -s "$here/package.json" "$home/installed.json"; then
  rm -rf "$home/node_modules"
  cp "$here/package.json" "$home/package.json"
  (cd "$home" && npm install --no-audit --no-fund --no-package-lock --omit=optional --ignore-scripts --loglevel=error)
  cp "$here/package.json" "$home/installed.json"
fi

# Node looks for modules beside the program: through this link it finds them under target.
ln -sfn "$here/clients" "$home/clients"
