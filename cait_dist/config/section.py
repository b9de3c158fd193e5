"""What every section of the configuration has in common: unknown keys are errors, values never change after loading."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def _as_text(path: object) -> object:
    # Strict validation, which the loader uses, knows paths as text only; a default is a Path already.
    return str(path) if isinstance(path, Path) else path


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("must begin with a home directory that exists") from error


# Shells leave the ~ of `data.path=~/imagenet` as it is, so it is expanded here.
UserPath = Annotated[Path, BeforeValidator(_as_text), AfterValidator(_expand_home)]
