"""Does a tracking server take what runs send? Asked of its API: its /health says yes where the API says no."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Literal

API = "/api/2.0/mlflow/experiments/get?experiment_id=0"
TIMEOUT = 3.0
FOREIGN_NAME = b"Invalid Host header"
"""What MLflow says, with status 403, to a client that calls it by a name that it was not told."""


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        state: ok; foreign name: it does not accept the name that it was called by; silent: nobody is there; wrong:
            somebody else is, or it cannot read its database
        text: in words, empty if ok
    """

    state: Literal["ok", "foreign name", "silent", "wrong"]
    text: str = ""


def probe(uri: str, called: str | None = None, timeout: float = TIMEOUT) -> Answer:
    """Ask a server for its first experiment, which every one has.

    Args:
        uri: ``http(s)://…``
        called: the host name, with its port, that clients will use; None: that of the URI
        timeout: seconds
    """
    place = uri.rstrip("/")
    try:
        request = urllib.request.Request(place + API, headers={"Host": called} if called else {})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return _judge(place, response.read(100_000))
    except urllib.error.HTTPError as error:
        return _refused(place, called or request.host, error)
    except (OSError, ValueError) as error:
        return Answer("silent", f"{place} does not answer ({getattr(error, 'reason', error)})")


def local_experiments(uri: str, timeout: float = TIMEOUT) -> list[str]:
    """Names of experiments whose clients write files into folders of the server's machine, not through the server."""
    body = json.dumps({"max_results": 1000}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/experiments/search", body, headers)
    with urllib.request.urlopen(request, timeout=timeout) as response:
        found = json.load(response).get("experiments", [])
    # Every database has the first one; our runs do not go there.
    others = [experiment for experiment in found if experiment["experiment_id"] != "0"]
    return [each["name"] for each in others if each["artifact_location"].startswith(("/", "file:"))]


def _judge(place: str, content: bytes) -> Answer:
    try:
        known = "experiment" in json.loads(content)
    except ValueError:
        known = False
    return Answer("ok") if known else Answer("wrong", f"{place} answers, but not as MLflow does")


def _refused(place: str, called: str, error: urllib.error.HTTPError) -> Answer:
    text = error.read(10_000)
    if error.code == 403 and FOREIGN_NAME in text:
        name = called.rpartition(":")[0] if called.rpartition(":")[2].isdigit() else called
        remedy = f"start it with --allowed-hosts {name}"
        return Answer("foreign name", f"{place}: the server does not accept this host name: {remedy}")
    # A gateway may ask for a password that only MLflow's client has: somebody is there, at least. And the first
    # experiment may be missing where somebody has removed it for good.
    if error.code in (401, 403) or b"RESOURCE_DOES_NOT_EXIST" in text:
        return Answer("ok")
    return Answer("wrong", f"{place} answers with status {error.code}")
