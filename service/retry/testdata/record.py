"""Records what urllib3's Retry decides: python3 record.py > urllib3.json.

Each case is a policy, a method and a run of outcomes, driven as
HTTPConnectionPool.urlopen drives it, with the clock stopped at NOW. Left out is
what the two mean to do differently: values of Retry-After that cannot be read
(urllib3 raises InvalidHeader) or are above retry_after_max (urllib3 waits for
the maximum).
"""
import itertools
import json
import time

import urllib3
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, ProtocolError, ReadTimeoutError, SSLError
from urllib3.util.retry import Retry

NOW = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT

POLICIES = [
    {"total": 3, "backoff_factor": 0.1},
    {"total": 0},
    {"total": 1, "status_forcelist": [503]},
    {"total": 9, "backoff_factor": 2, "backoff_max": 5, "status_forcelist": [500, 503]},
    {"total": 3, "respect_retry_after_header": False, "backoff_factor": 1},
    {"total": 3, "respect_retry_after_header": False, "backoff_factor": 1, "status_forcelist": [429, 503]},
    {"total": 5, "connect": 1},
    {"total": 5, "read": 1, "backoff_factor": 0.5},
    {"total": 5, "status": 1, "status_forcelist": [502]},
    {"total": 5, "other": 0},
    {"total": 5, "connect": 0, "read": 0, "status": 0, "status_forcelist": [503]},
    {"total": 3, "allowed_methods": ["POST"], "status_forcelist": [503], "backoff_factor": 0.25},
]
METHODS = ["GET", "POST", "PUT", "PATCH"]
RUNS = [
    [{"error": e}] * 6 for e in ("connect", "resolve", "disconnect", "timeout", "tls")
] + [
    [{"status": s}] * 6 for s in (200, 404, 429, 500, 503)
] + [
    [{"status": s, "retry_after": "7"}] * 6 for s in (200, 413, 429, 500, 503)
] + [
    [{"status": 503, "retry_after": v}] * 4 for v in (
        "0", " 3 ", "Sun, 06 Nov 1994 08:49:49 GMT", "Sunday, 06-Nov-94 08:49:49 GMT",
        "Sun Nov  6 08:49:49 1994", "Sun, 06 Nov 1994 08:49:30 GMT")
] + [
    [{"error": "connect"}, {"error": "disconnect"}, {"status": 503}, {"error": "connect"}, {"status": 429, "retry_after": "2"}, {"error": "tls"}],
    [{"status": 503, "retry_after": "1"}, {"status": 503}, {"error": "timeout"}, {"error": "timeout"}],
]


def error(kind):
    return {
        "connect": lambda: ConnectTimeoutError("connect"),
        "resolve": lambda: NameResolutionError("upstream.test", None, OSError("resolve")),
        "disconnect": lambda: ProtocolError("disconnect"),
        "timeout": lambda: ReadTimeoutError(None, "/", "timeout"),
        "tls": lambda: SSLError("tls"),
    }[kind]()


def run(policy, method, outcomes):
    retries, steps, slept = Retry(**policy), [], []
    time.sleep = slept.append
    for o in outcomes:
        slept.clear()
        try:
            if "error" in o:
                retries = retries.increment(method, "/", error=error(o["error"]))
                retries.sleep()
            else:
                headers = {"Retry-After": o["retry_after"]} if "retry_after" in o else {}
                response = urllib3.HTTPResponse(body=b"", status=o["status"], headers=headers)
                if not retries.is_retry(method, response.status, bool(response.headers.get("Retry-After"))):
                    break
                retries = retries.increment(method, "/", response=response)
                retries.sleep(response)
        except urllib3.exceptions.HTTPError:
            break
        steps.append(sum(slept))
    return steps


time.time = lambda: NOW
print('{"source": "urllib3 %s (MIT licence), urllib3.util.Retry, recorded by record.py",' % urllib3.__version__)
print('"now": %d,' % NOW)
for name, rows in (("policies", POLICIES), ("runs", RUNS)):
    print('"%s": [\n%s\n],' % (name, ",\n".join(map(json.dumps, rows))))
numbers = itertools.product(range(len(POLICIES)), METHODS, range(len(RUNS)))
cases = [{"policy": p, "method": m, "run": r, "waits": run(POLICIES[p], m, RUNS[r])} for p, m, r in numbers]
print('"cases": [\n%s\n]}' % ",\n".join(map(json.dumps, cases)))
