"""What goes wrong with the hub or the network, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ssdcli.errors import DownloadFailed, UsageError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

    from ssdcli.hub.download import RepoId

_AGAIN = "Run the same command again: it resumes where this one stopped."


@contextmanager
def failures(repo: RepoId, file: str | None = None) -> Iterator[None]:
    """Turn what goes wrong with the hub or the network into an error that says what to do."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except errors.HFValidationError as error:
        raise UsageError(f"the hub has no repositories with names like '{repo}'.", "Give ORG/NAME.") from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable() from error
    except ValueError as error:
        raise DownloadFailed(
            f"{constants.ENDPOINT} did not answer like a Hugging Face hub.", "Check the network and HF_ENDPOINT."
        ) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # re-exported from httpx
        if file is None:
            raise _unreachable() from error
        raise DownloadFailed(f"the connection broke off while {file} of {repo} was fetched.", _AGAIN) from error
    except OSError as error:
        if error.errno is None:  # fewer bytes than were announced
            raise DownloadFailed(f"{file} of {repo} arrived incomplete.", _AGAIN) from error
        remedy = "Free some space or correct the permissions there, or set HF_HUB_CACHE to another folder."
        raise DownloadFailed(f"{constants.HF_HUB_CACHE} cannot be written ({error.strerror}).", remedy) from error


def _unreachable() -> DownloadFailed:
    from huggingface_hub import constants

    remedy = "Check the network and HF_ENDPOINT; with SSD_OFFLINE=1 what is in the hub's cache is used."
    return DownloadFailed(f"the hub at {constants.ENDPOINT} cannot be reached.", remedy)


def _refused(repo: RepoId, error: HfHubHTTPError) -> DownloadFailed:
    """What an error that the hub answers with means."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repo.name}"
        remedy = f"Ask for access at {page}, then log in with 'hf auth login' or set HF_TOKEN."
        return DownloadFailed(f"{repo.name} is gated: its authors ask users to agree to terms.", remedy)
    if isinstance(error, errors.RepositoryNotFoundError):
        remedy = "Check the spelling; if it is private, log in with 'hf auth login'."
        return DownloadFailed(f"the hub has no repository {repo.name}.", remedy)
    if isinstance(error, errors.RevisionNotFoundError):
        remedy = "Name one of its branches, tags or commits, or omit the revision."
        return DownloadFailed(f"{repo.name} has no revision {repo.revision!r}.", remedy)
    status = error.response.status_code
    if status == 401:
        return DownloadFailed("the hub does not accept your token.", "Log in again with 'hf auth login'.")
    return DownloadFailed(f"the hub answered a request for {repo} with status {status}.", "Try again later.")
