"""The fake cloud's control API, for the scripts here. `python3 SCRIPT URL` runs one against a fresh fake cloud."""

import json
import sys
import urllib.request

URL = sys.argv[1]
TOKEN = "test"


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as response:
        text = response.read()
    return json.loads(text) if text else None


def knobs(**knobs):
    call("PATCH", "/control/knobs", knobs)


def fault(effect, call_, **rest):
    """Goes wrong once for a call of this kind, unless `rest` says otherwise."""
    call("POST", "/control/faults", {"effect": effect, "call": call_, "times": 1, **rest})


def advance(seconds):
    call("POST", "/control/clock", {"advance": seconds})


def truth(by="name"):
    return call("GET", f"/truth?by={by}")


def alive():
    return truth()["alive"]


def refused(act, kind):
    """The exception of this kind that `act` must end with."""
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"nothing was refused; expected {kind}")
