"""Data sets of the Hugging Face hub, fetched into a folder and from then on read as local files.

What was fetched is recorded beside the files, in ``.hub.json``, with the commit it came from. With the record and the
files there, nobody is asked again: a corpus does not change under a run because its hub repository did, and it works
offline.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from src.errors import UserError

logger = logging.getLogger(__name__)

RECORD = ".hub.json"
TIMEOUT_S = 15  # for one connection; an interrupted download is resumed by the next run


@dataclass(frozen=True)
class HubFiles:
    """Files of a data set, as a source's ``hub`` setting names them.

    repo: ``owner/name``.
    files: glob patterns of the files; ``*`` also matches ``/``.
    revision: commit, tag or branch; None means the newest commit of the first run, which later runs stay with.
    """

    repo: str
    files: list[str]
    revision: str | None = None

    @classmethod
    def from_config(cls, source: str, config: Mapping[str, Any]) -> "HubFiles":
        """Build from the ``hub`` entry of a source, naming keys that are unknown or missing."""
        allowed = {field.name for field in fields(cls)}
        if unknown := set(config) - allowed:
            known = ", ".join(sorted(allowed))
            raise UserError(f"hub of source '{source}' has the unknown setting '{min(unknown)}': known are {known}")
        if missing := {"repo", "files"} - set(config):
            raise UserError(
                f"hub of source '{source}' has no '{min(missing)}': give repo, such as wikimedia/wikipedia, and files, "
                "such as 20231101.zh/*.parquet"
            )
        files = config["files"]
        return cls(config["repo"], [files] if isinstance(files, str) else list(files), config.get("revision"))


def download_dataset(source: str, hub: Mapping[str, Any], folder: str | Path | list[str]) -> list[Path]:
    """Fetch what is not there yet into a folder of the source's own, and return the files, sorted.

    Args:
        source: its name, for messages.
        hub: ``repo``, ``files`` and ``revision``, as `HubFiles` has them.

    Raises:
        UserError: the hub cannot be reached, gives no access or has no such files, or the folder holds other ones.
    """
    wanted = HubFiles.from_config(source, hub)
    if not isinstance(folder, str | Path):
        raise UserError(f"source '{source}' comes from the hub: path must be one folder to download to, not {folder}")
    folder = Path(folder).expanduser()
    record = folder / RECORD
    sizes = _recorded(record, wanted)
    if sizes is None or not all(_has_size(folder / name, size) for name, size in sizes.items()):
        sizes, commit = _fetch(source, wanted, folder)
        if missing := [name for name, size in sizes.items() if not _has_size(folder / name, size)]:
            raise UserError(_unreachable(source, wanted, folder, f"{len(missing)} files did not arrive whole"))
        temporary = record.with_suffix(".tmp")
        content = {**asdict(wanted), "commit": commit, "sizes": sizes}
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(temporary, record)
    return sorted(folder / name for name in sizes)


def _recorded(record: Path, wanted: HubFiles) -> dict[str, int | None] | None:
    """Sizes of the files of a finished download by their names, None where there was none."""
    if not record.is_file():
        return None
    found = json.loads(record.read_text(encoding="utf-8"))
    for name, value in asdict(wanted).items():
        if found[name] != value:
            raise UserError(
                f"{record.parent} holds files of another download ({name}={found[name]}, not {value}): "
                "give another path, or remove the folder"
            )
    return found["sizes"]


def _fetch(source: str, hub: HubFiles, folder: Path) -> tuple[dict[str, int | None], str]:
    """Download the files; returns their sizes by name, and the commit."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi().dataset_info(hub.repo, revision=hub.revision, timeout=TIMEOUT_S, files_metadata=True)
        present = {file.rfilename: file.size for file in info.siblings or []}
        sizes = {name: present[name] for name in filter_repo_objects(present, allow_patterns=hub.files)}
        if not sizes:
            some = ", ".join(sorted(present)[:5])
            raise UserError(
                f"'{hub.repo}' has no file that matches {', '.join(hub.files)}; it has, for instance, {some}: set "
                f"hub.files of source '{source}'"
            )
        for name, size in sizes.items():
            if (folder / name).is_file() and not _has_size(folder / name, size):
                (folder / name).unlink()  # the library takes a file that it once fetched for whole
        total = sum(size or 0 for size in sizes.values())
        logger.info("fetching %d files (%.1f GB) of %s from the hub into %s", len(sizes), total / 1e9, hub.repo, folder)
        snapshot_download(
            hub.repo,
            repo_type="dataset",
            revision=info.sha,
            allow_patterns=hub.files,
            local_dir=folder,
            etag_timeout=TIMEOUT_S,
        )
    except RevisionNotFoundError as error:
        raise UserError(
            f"'{hub.repo}' has no revision '{hub.revision}': set hub.revision to a commit or null"
        ) from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(
            f"the hub gives no access to the data set '{hub.repo}' of source '{source}': check the id; if it is gated, "
            f"accept its terms on https://huggingface.co/datasets/{hub.repo} and use `hf auth login` or set HF_TOKEN"
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(_unreachable(source, hub, folder, str(error) or type(error).__name__)) from error
    return sizes, info.sha or ""


def _has_size(file: Path, size: int | None) -> bool:
    return file.is_file() and (size is None or file.stat().st_size == size)


def _unreachable(source: str, hub: HubFiles, folder: Path, reason: str) -> str:
    return (
        f"the hub that holds the data set '{hub.repo}' of source '{source}' cannot be reached "
        f"({reason.splitlines()[0]}): run again to go on where it stopped, name a mirror with "
        "HF_ENDPOINT=https://hf-mirror.com (for users in China), or work offline: put the files into "
        f"{folder} yourself and leave out the source's hub setting"
    )
