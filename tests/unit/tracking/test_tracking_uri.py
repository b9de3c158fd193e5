"""What `tracking.uri` may be; a password in it is refused and never shown, since the configuration is written down."""

from pathlib import Path

import pytest

from cait_dist.config import ConfigError, load_config
from cait_dist.config.tracking import TrackingConfig, check_tracking_uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://login01:5000",
        "https://mlflow.example.org/team",
        "sqlite:////data/mlflow.db",
        "postgresql://mike@db/mlflow",
        "postgresql+psycopg2://db:5433/mlflow",
        "postgresql+psycopg://db/mlflow?sslmode=require",
        "postgresql:///mlflow?host=/run/postgresql",
    ],
)
def test_servers_and_databases_are_taken_as_they_are(uri: str) -> None:
    assert TrackingConfig(uri=uri).uri == uri


@pytest.mark.parametrize("uri", ["login01:5000", "file:///runs", "sqlite://mlflow.db", "mysql://db/mlflow", "ftp://x"])
def test_anything_else_is_refused_with_what_is_possible(uri: str) -> None:
    with pytest.raises(ValueError, match=r"must start with http://, https://, postgresql:// or sqlite:///"):
        check_tracking_uri(uri)


@pytest.mark.parametrize(
    ("uri", "shown", "remedy"),
    [
        ("https://mike:hunter2@mlflow.example.org/x", "https://mike:***@mlflow.example.org/x", "MLFLOW_TRACKING_PASS"),
        ("https://hunter2@mlflow.example.org", "https://***@mlflow.example.org", "MLFLOW_TRACKING_TOKEN"),
        ("http://login01/?token=hunter2", "http://login01/?token=***", "MLFLOW_TRACKING_TOKEN"),
        ("postgresql://mike:hunter2@db/mlflow", "postgresql://mike:***@db/mlflow", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://db/mlflow?password=hunter2", "postgresql://db/mlflow?password=***", "PGPASSWORD or ~/.pgpass"),
    ],
)
def test_a_password_is_refused_with_the_remedy_and_is_not_printed(
    tmp_path: Path, uri: str, shown: str, remedy: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f'data: {{path: x}}\ntracking: {{uri: "{uri}"}}\n')
    for source, arguments in ((file, []), (tmp_path / "plain.yaml", [f"tracking.uri={uri}"])):
        (tmp_path / "plain.yaml").write_text("data: {path: x}\n")
        with pytest.raises(ConfigError) as caught:
            load_config(source, arguments)
        text = str(caught.value)
        assert shown in text
        assert remedy in text
        assert "'tracking.uri'" in text
        assert "hunter2" not in text.replace(f"tracking.uri={uri}", ""), "but for the words that were typed"


def test_a_uri_that_cannot_be_read_is_refused_without_being_printed() -> None:
    with pytest.raises(ValueError, match="must be a URI") as caught:
        check_tracking_uri("http://mike:hunter2@[::1")
    assert "hunter2" not in str(caught.value).partition("[type=")[0]


@pytest.mark.parametrize("seconds", [0, None, 2.5])
def test_system_metrics_can_be_slowed_down_and_switched_off(seconds: float | None) -> None:
    assert TrackingConfig(system_seconds=seconds).system_seconds == seconds
