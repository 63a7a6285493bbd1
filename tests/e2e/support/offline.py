"""`paceline generate -f`: requests in, answers out, no server."""

import json

from support.cluster import MODEL, run
from support.rest import loads_exact


def generate(requests, *options, model=MODEL):
    """One answer per request, fractions as printed. REQUIRES: all are accepted."""
    stdin = "".join(json.dumps(request) + "\n" for request in requests).encode()
    result = run("generate", model, "-f", "-", *options, stdin=stdin, timeout=900)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:], result.stdout[-500:])
    answers = [loads_exact(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(requests)
    return answers
