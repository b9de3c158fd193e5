"""Where MLflow mirrors the run directory."""

from pydantic import Field, field_validator

from .section import Section


class TrackingConfig(Section):
    """The run directory is the truth; MLflow shows it."""

    mlflow: bool = Field(True, description="mirror metrics to MLflow")
    uri: str | None = Field(None, description="http(s)://… or sqlite:///…; null: sqlite beside the runs")
    parent_run_id: str | None = Field(None, description="MLflow run that this one is shown under; set by `cait sweep`")
    experiment: str = Field("cait", min_length=1, description="MLflow experiment")

    @field_validator("uri")
    @classmethod
    def _scheme_is_known(cls, uri: str | None) -> str | None:
        if uri is not None and not uri.startswith(("http://", "https://", "sqlite:///")):
            raise ValueError("must start with http://, https:// or sqlite:///")
        return uri
