#!/bin/sh
# Install what the runner needs into the active Python environment. pyproject.toml has the same lists.
#   sh requirements.sh              torch, torchvision, tqdm, matplotlib
#   sh requirements.sh dev          the same, and what the tests and checks need
#   sh requirements.sh notebook     the same, and what runs docs/first_steps.ipynb
#   sh requirements.sh tensorboard  the same, and what --tensorboard needs
#   sh requirements.sh dp           the same, and what noise on updates needs, to say what it is worth
#   sh requirements.sh secure       the same, and what --secure_aggregation needs
#   sh requirements.sh deploy       the same, and what a real network needs (Python 3.11 or newer)
#   sh requirements.sh bench        the same, and the frameworks that benchmarks/rounds.py compares with
# Several of these words at once bring all that they name.
set -euf

# torchvision must be the one built for the torch beside it, so pip chooses the two together.
core="torch>=2.11,<3 torchvision>=0.26,<1 tqdm>=4.60 matplotlib>=3.7"
notebook="nbclient>=0.10 ipykernel>=6"
tensorboard="tensorboard>=2.10"
dp="dp-accounting>=0.5"
secure="cryptography>=43"
extra=""
for word in "$@"; do
    case "$word" in
        dev) extra="$extra pytest>=8 pytest-xdist>=3.5 hypothesis>=6.100 ruff>=0.6 mypy>=1.10 $notebook $tensorboard $dp $secure" ;;
        notebook) extra="$extra $notebook" ;;
        tensorboard) extra="$extra $tensorboard" ;;
        dp) extra="$extra $dp" ;;
        secure) extra="$extra $secure" ;;
        deploy) extra="$extra flwr>=1.41,<1.43 safetensors>=0.4 $secure" ;;
        bench) extra="$extra flwr[simulation]>=1.20 pfl>=0.4" ;;
        *)
            known="dev, notebook, tensorboard, dp, secure, deploy, bench"
            echo "requirements.sh: unknown extra '$word' (accepted: $known)" >&2
            exit 2
            ;;
    esac
done
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "requirements.sh: Python 3.10 or newer is needed, and python3 is $(python3 --version 2>&1 || true)" >&2
    exit 1
fi
# shellcheck disable=SC2086  # the lists are meant to be split into words
exec python3 -m pip install $core $extra
