#!/usr/bin/env bash
# Starts `paceline serve` with two replicas of a model, asks it one question over gRPC and one over
# HTTP, and stays up until Ctrl-C. Usage: serve_demo.sh PACELINE MODEL [serve options …]
set -euo pipefail
paceline=$1
model=$2
shift 2

set -m  # a group of its own: Ctrl-C reaches the server once, through this script
"$paceline" serve "$model" --replicas 2 "$@" &
server=$!
set +m
trap 'kill -INT $server 2>/dev/null || true' INT TERM
trap 'kill -INT $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT

base=http://127.0.0.1:8000
for _ in $(seq 600); do
  if ! kill -0 $server 2>/dev/null; then
    wait $server && exit 0 || exit $?
  fi
  ready=$(curl -sf http://127.0.0.1:8002/metrics | grep -c '^paceline_router_replica_state.*"ready".* 1$' || true)
  [ "$ready" = 2 ] && break
  sleep 0.1
done
sleep 0.2  # the server prints its addresses

ask() { # url question
  printf '\n\033[1m%s\033[0m  (%s)\n' "$2" "$1"
  "$paceline" chat "$1" --message "$2" --temperature 0 --max-tokens 80
}
ask grpc://127.0.0.1:50051 "What is gravity?"
ask $base "Name three primary colors."
printf '\nServing until Ctrl-C. Talk to it: %s chat\n' "$paceline"
status=0
while kill -0 $server 2>/dev/null; do
  wait $server || true  # a signal ends the wait, not the server
done
wait $server || status=$?
exit $status
