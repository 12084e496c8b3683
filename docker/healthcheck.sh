#!/usr/bin/env bash
# Whether the server in this container lives: asks /healthz on the HTTP port.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${HEALTHCHECK_PORT:-7401}"
printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
read -r line <&3
[[ $line == *" 200 "* ]]
