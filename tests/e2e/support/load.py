"""Short requests, one after another on a new connection each, while a test changes something."""

import http.client
import json
import threading


class Load:
    """Use as a context; afterwards `failures` says what went wrong and `answered` how much did not."""

    def __init__(self, port, tls=None, headers=None, threads=2):
        self.answered = 0
        self.failures = []
        self._port = port
        self._tls = tls
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self):
        while not self._stop.is_set():
            try:
                status, text = self._ask()
                failure = None if status == 200 else f"{status} {text}"
            except Exception as error:
                failure = repr(error)
            with self._lock:
                if failure:
                    self.failures.append(failure)
                else:
                    self.answered += 1

    def _ask(self):
        connection = (http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=300)
                      if self._tls else
                      http.client.HTTPConnection("127.0.0.1", self._port, timeout=300))
        try:
            connection.request("POST", "/v1/completions",
                               json.dumps({"prompt": "Once", "max_tokens": 2}), self._headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()
