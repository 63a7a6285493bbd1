# Downloads $URL to $FILE, whole and checked or not at all; goes on where it was stopped.
if [ -e "$FILE" ]; then
  echo "$FILE is there"
  exit 0
fi
partial="$FILE.partial"
status=0
{
  printf '%s\n' fail location silent show-error 'continue-at = "-"'
  printf '%s\n' 'retry = 10' retry-connrefused 'speed-limit = 1024' 'speed-time = 60'
  # Not an argument: those show in the process list.
  if [ -n "$TOKEN_FILE" ]; then printf 'oauth2-bearer = "%s"\n' "$(cat "$TOKEN_FILE")"; fi
} | curl --config - --output "$partial" "$URL" || status=$?
case $status in
  0) ;;
  22 | 33 | 36) rm -f "$partial"; exit "$status" ;;  # refused, or nothing to go on from: start anew
  *) exit "$status" ;;
esac
if [ -n "$SHA256" ] && ! echo "$SHA256  $partial" | sha256sum -c -; then
  rm -f "$partial"
  exit 1
fi
mv "$partial" "$FILE"
echo "$FILE: $(wc -c <"$FILE") bytes"
