"""Where MLflow mirrors the run directory."""

from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import Field, field_validator

from .section import Section

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "postgresql+psycopg2", "postgresql+psycopg")
SECRETS = ("password", "passwd", "token", "sslpassword")


class TrackingConfig(Section):
    """The run directory is the truth; MLflow shows it."""

    mlflow: bool = Field(True, description="mirror metrics to MLflow")
    uri: str | None = Field(
        None, description="http(s)://…, postgresql://… or sqlite:///…; null: sqlite beside the runs"
    )
    parent_run_id: str | None = Field(None, description="MLflow run that this one is shown under; set by `cait sweep`")
    experiment: str = Field("cait", min_length=1, description="MLflow experiment")
    live: bool = Field(
        False,
        description="show loss, learning rate and images/s under live/… before a checkpoint holds them; after a crash"
        " the steps that are done again are shown twice there, and there only",
    )
    system_seconds: float | None = Field(
        10.0, ge=0, description="between samples of each node's CPU, memory, disk, network and GPUs; 0 or null: none"
    )

    @field_validator("uri")
    @classmethod
    def _can_be_written_down(cls, uri: str | None) -> str | None:
        return None if uri is None else check_tracking_uri(uri)


def check_tracking_uri(uri: str) -> str:
    """The same URI, if MLflow can be found by it and everybody may read it.

    Raises:
        ValueError: if it is of another kind, or holds a password: run directories keep their configuration
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in SERVERS + DATABASES or (scheme == "sqlite" and not uri.startswith("sqlite:///")):
        raise ValueError("must start with http://, https://, postgresql:// or sqlite:///")
    try:
        bare = _without_secrets(uri)
    except ValueError as error:
        raise ValueError(f"must be a URI, got what cannot be read as one ({error})") from None
    if bare != uri:
        remedy = "PGPASSWORD or ~/.pgpass"
        if scheme in SERVERS:
            remedy = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise ValueError(f"must not hold a password, which every copy of it would show: set {remedy}, got {bare!r}")
    return uri


def _without_secrets(uri: str) -> str:
    """The URI as it may be shown. The name alone is no secret of a database, and may be a token for a server."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return uri
    if "@" in parts.path:  # a password with a slash, which would have to be written as %2F
        return f"{parts.scheme}://***@{uri.rpartition('@')[2]}"
    user, at, place = parts.netloc.rpartition("@")
    if at and (":" in user or parts.scheme in SERVERS):
        place = f"{user.partition(':')[0]}:***@{place}" if ":" in user else f"***@{place}"
    else:
        place = parts.netloc
    secret = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True) if key.lower() in SECRETS]
    query = parts.query if not secret else "&".join(f"{key}=***" for key in secret)
    return urlunsplit(parts._replace(netloc=place, query=query)) if (place, query) != parts[1:4:2] else uri
