"""What every section of the configuration has in common: unknown keys are errors, values never change after loading."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)


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

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")


def is_url(place: object) -> bool:
    """Whether a place is the text of a URL and not a path."""
    return isinstance(place, str) and _URL.match(place) is not None


def _keep_url(place: object, as_path: ValidatorFunctionWrapHandler) -> object:
    # pathlib takes `//` for a slip of the pen: as a path, http://host would become http:/host.
    return _checked_url(place) if isinstance(place, str) and is_url(place) else as_path(place)


def _checked_url(url: str) -> str:
    """The configuration is copied into the run directory and to MLflow, so no secret may be part of it."""
    if re.search(r"://[^/]*@", url):
        raise ValueError(
            "must not hold a user name or password, as it is copied into the run directory: give them by ~/.netrc (for"
            " http), the service's environment variables (AWS_ACCESS_KEY_ID, …) or fsspec's own configuration"
        )
    if re.search(r"[?#]|::", re.sub(r"\[[^]]*\]", "", url)):  # brackets hold an address of IPv6
        raise ValueError("must be the plain URL of a folder: without '?', '#' and '::', whose keys may be secret")
    if not url.partition("://")[2].strip("/"):
        raise ValueError("must name a folder after '://'")
    return url.rstrip("/")


if TYPE_CHECKING:
    DataPlace = Path | str
else:
    # A path of the user's, or the text of a URL.
    DataPlace = Annotated[UserPath, WrapValidator(_keep_url), PlainSerializer(str, return_type=str, when_used="json")]
