"""The parts of the check that need no second process."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from launch.check import measure
from launch.check.collective import first_of_each
from launch.check.measure import examine_device, is_product
from launch.check.tracking_server import unreachable
from launch.check.traffic import ring_rounds


@pytest.mark.parametrize("nodes", range(9))
def test_every_node_meets_two_others_and_never_two_at_once(nodes: int) -> None:
    rounds = ring_rounds(nodes)
    for pairs in rounds:
        together = [node for pair in pairs for node in pair]
        assert len(together) == len(set(together))
    met = Counter(node for pairs in rounds for pair in pairs for node in pair)
    links = {frozenset(pair) for pairs in rounds for pair in pairs}
    assert len(links) == sum(map(len, rounds))
    assert met == {node: min(2, nodes - 1) for node in range(nodes if nodes > 1 else 0)}


def test_a_thousand_nodes_need_two_rounds() -> None:
    assert len(ring_rounds(1000)) == 2
    assert len(ring_rounds(1001)) == 3


@pytest.mark.parametrize(
    ("hosts", "leaders"), [("aabb", [0, 2]), ("abab", [0, 1]), ("a", [0]), ("baab", [0, 1]), ("aaa", [0])]
)
def test_the_first_rank_of_each_host_speaks_for_it(hosts: str, leaders: list[int]) -> None:
    assert first_of_each(list(hosts)) == leaders


def test_the_cpu_computes_exactly() -> None:
    report = examine_device(torch.device("cpu"))
    assert (report.type, report.correct, report.error) == ("cpu", True, None)
    assert report.seconds > 0
    assert report.tflops == pytest.approx(2 * 768**3 / report.seconds / 1e12)


@pytest.mark.parametrize("place", [(0, 0), (17, 96), (127, 127)])
@pytest.mark.parametrize("number_type", [torch.float32, torch.bfloat16, torch.float16])
def test_one_wrong_element_is_seen_in_every_number_type(place: tuple[int, int], number_type: torch.dtype) -> None:
    left, right = (measure._factor(128, torch.device("cpu"), seed).to(number_type) for seed in (1, 2))
    product = left @ right
    assert is_product(left, right, product)
    product[place] += 1
    assert not is_product(left, right, product)


def test_bfloat16_holds_every_element_of_the_largest_product_exactly() -> None:
    """The length of the sums is that of GPUs, 4096; some of them are enough here."""
    factor = measure._factor(4096, torch.device("cpu"), 1)
    product = factor[:64] @ factor[64:1088].T
    assert torch.equal(product, product.to(torch.bfloat16).float())
    assert product.abs().max() > 64  # and it is not trivially small


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """Address and answers of a web server; it gives the last of them, whatever it is asked, but is always healthy."""
    answers = [(200, b'{"experiment": {}}')]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers[-1] if self.path.startswith("/api/2.0/mlflow/experiments/get?") else (200, b"OK")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", answers
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (200, b'{"experiment": {"name": "Default"}}', None),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', None),
        (401, b"a gateway asks for a password", None),
        (403, b"a gateway knows you not", None),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts 127.0.0.1"),
        (200, b"<html>Welcome to the portal</html>", "answers, but not as MLflow does"),
        (404, b"no such page", "answers with status 404"),
        (503, b"", "answers with status 503"),
    ],
)
def test_a_tracking_server_is_asked_for_what_runs_need_of_it(
    server: tuple[str, list[tuple[int, bytes]]], status: int, text: bytes, words: str | None
) -> None:
    address, answers = server
    answers.append((status, text))
    for uri in (address, f"{address}/"):
        reason = unreachable(uri)
        assert (reason is None) == (words is None), reason
        assert (words or "") in (reason or "")
        assert words is None or (reason or "").startswith(address)


def test_a_tracking_server_that_is_gone_or_unknown_is_told() -> None:
    assert "http://127.0.0.1:9 does not answer (" in (unreachable("http://127.0.0.1:9") or "")
    assert "does not answer" in (unreachable("http://") or "")
    assert "127.0.0.1:9 does not answer (" in (unreachable("postgresql://mike@127.0.0.1:9/mlflow") or "")
    assert unreachable("postgresql:///mlflow") is None


def test_a_database_needs_a_folder_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unreachable(f"sqlite:///{tmp_path}/mlflow.db") is None
    assert unreachable(f"sqlite:///{tmp_path}/not/yet/mlflow.db") is None
    (tmp_path / "file").touch()
    assert unreachable(f"sqlite:///{tmp_path}/file/mlflow.db") == f"{tmp_path}/file is not a folder"
    monkeypatch.setattr("os.access", lambda place, mode: False)  # permissions do not bind root, who may run this test
    assert unreachable(f"sqlite:///{tmp_path}/not/yet/mlflow.db") == f"{tmp_path} cannot be written"
