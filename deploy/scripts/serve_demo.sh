#!/usr/bin/env bash
# Starts `paceline serve` with two replicas of a model, asks it one question over gRPC and one over
# HTTP, and stays up until Ctrl-C. Usage: serve_demo.sh PACELINE MODEL [serve options …]
set -euo pipefail
paceline=$1
model=$2
shift 2

"$paceline" serve "$model" --replicas 2 "$@" &
server=$!
# A terminal sends Ctrl-C to the server as well; SIGTERM and `kill` reach only this script.
trap 'kill -INT $server 2>/dev/null || true' INT TERM
trap 'kill -INT $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT

base=http://127.0.0.1:8000
for _ in $(seq 600); do
  if ! kill -0 $server 2>/dev/null; then
    wait $server && exit 0 || exit $?
  fi
  curl -sf -o /dev/null "$base/ready" && break
  sleep 0.1
done

ask() { # url question
  printf '\n\033[1m%s\033[0m  (%s)\n' "$2" "$1"
  "$paceline" chat "$1" --message "$2" --temperature 0 --max-tokens 80
}
ask grpc://127.0.0.1:50051 "What is gravity?"
ask $base "Name three primary colors."
printf '\nServing until Ctrl-C. Talk to it: %s chat\n' "$paceline"
while kill -0 $server 2>/dev/null; do
  wait $server && exit 0 || status=$?
done
exit "${status:-0}"
