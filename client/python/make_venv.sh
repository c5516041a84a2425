#!/usr/bin/env bash
# Makes a virtual environment that sees Debian's Python packages (torch, numpy, grpcio) and installs this package into
# it, without network:   client/python/make_venv.sh <folder>
set -euo pipefail
package=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:?usage: $0 <folder>}
[[ -x $venv/bin/python ]] || /usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/python" -m pip install --quiet --no-index --no-build-isolation --no-deps --force-reinstall "$package"
"$venv/bin/python" -I -c 'import normd; print("normd", normd.__version__, "in", normd.__path__[0])'
