#!/bin/sh
# What the containers run: `serve`, `web`, `train` and `generate` with the settings of the command, or any other command.
set -eu
verb=${1:-web}
[ $# -eq 0 ] || shift
case $verb in
  serve) exec python scripts/serve.py host=0.0.0.0 port=8000 "$@" ;;
  web) exec python scripts/serve.py host=0.0.0.0 port=8000 web=true "$@" ;;
  train) exec python train.py "$@" ;;
  generate) exec python generate.py "$@" ;;
  *) exec "$verb" "$@" ;;
esac
