"""Makes the calls that it reads as JSON, and writes what the caller of each got."""

import functools
import json
import platform
import sys

import requests
import urllib3

# As a caller does who wants to see the head before the body is whole.
requests.Session.request = functools.partialmethod(requests.Session.request, stream=True)


def reply_to(call, url):
    reply = {"fields": [], "chunks": [], "rest": ""}
    try:
        response = eval(call, {"requests": requests, "urllib3": urllib3, "u": url})
        raw = getattr(response, "raw", response)
        reply.update(
            protocol={10: "HTTP/1.0", 11: "HTTP/1.1"}[raw.version],
            status=raw.status,
            reason=raw.reason,
            fields=list(raw.headers.items()),
        )
        pieces = getattr(response, "iter_content", raw.stream)(None)
        for piece in pieces:
            if raw.chunked:
                reply["chunks"].append(piece.decode("latin-1"))
            else:
                reply["rest"] += piece.decode("latin-1")
    except Exception as e:
        reply["failure"] = f"{type(e).__name__}: {e}"
    return reply


json.dump(
    {
        "python": platform.python_version(),
        "requests": requests.__version__,
        "urllib3": urllib3.__version__,
        "replies": [reply_to(p["call"], p["url"]) for p in json.load(sys.stdin)],
    },
    sys.stdout,
)
