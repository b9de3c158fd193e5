"""Where data are: a path of the user's, or a URL, which stays what was written and holds no secret."""

from pathlib import Path

import pytest

from cait_dist.config import RunConfig, config_to_yaml, flatten, load_config


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("http://host:8000/a/b", "http://host:8000/a/b"),
        ("https://host/a//", "https://host/a"),
        ("s3://bucket/im@ge", "s3://bucket/im@ge"),
        ("file:///scratch/data", "file:///scratch/data"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("a/b", Path("a/b")),
        ("/a:b//c", Path("/a:b/c")),
    ],
)
def test_urls_stay_text_and_paths_become_paths(minimal, write, written, kept):
    config = load_config(minimal, [f"data.path='{written}'"]).config
    assert config.data.path == kept
    assert type(config.data.path) is type(kept) or isinstance(kept, Path)
    assert flatten(config)["data.path"] == str(kept)
    assert load_config(write("again.yaml", config_to_yaml(config))).config == config
    assert RunConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://me:secret@host/a", "must not hold a user name or password, as it is copied into the run directory"),
        ("https://token@host/a", "give them by ~/.netrc"),
        ("http://host/a?key=secret", "without '?', '#' and '::'"),
        ("simplecache::http://host/a", "without '?', '#' and '::'"),
        ("s3://", "must name a folder after '://'"),
    ],
)
def test_urls_with_secrets_or_without_a_folder_are_refused(minimal, errors, url, said):
    (line,) = errors(minimal, f"data.path={url}")
    assert said in line
