#!/bin/sh
# run.sh NORMD SOCKET APP: runs APP against a server on SOCKET, and ends the server whatever happens.
set -eu
server=$1 socket=$2 app=$3

"$server" --store memory --listen "" --unix-socket "$socket" &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" || true' EXIT
# Until the server listens, 5 s at most.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  if [ -S "$socket" ]; then break; fi
  sleep 0.25
done
"$app" "unix:$socket"
