"""The object store behind a URL, and what its refusals mean to a caller.

Endpoint, region and credentials of s3:// come from the standard variables: AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, else from the container's or the machine's role.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from mlray.errors import ConfigError, RegistryUnavailable, first_line

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A server that is away is told within half a minute; by default it would be three.
_RETRY: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_INSTANCE_METADATA = "/latest/api/token"
"""Where a machine of the cloud is asked for its role, the last place to look for keys; elsewhere nobody answers."""
_REMEDIES: Mapping[str, str] = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for a temporary pair) of a user who "
    "may read, write, list and delete there",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def open_at(url: str) -> ObjectStore:
    """The store at an absolute URL: a folder is made where it is missing, a bucket is not."""
    try:
        if url.startswith("file:"):
            return LocalStore(unquote(urlsplit(url).path), mkdir=True)
        if url.startswith("s3:"):
            endpoint = next((os.environ[name] for name in _ENDPOINTS if name in os.environ), "")
            return S3Store.from_url(
                url, retry_config=_RETRY, client_options={"allow_http": endpoint.startswith("http://")}
            )
        store: ObjectStore = from_url(url, retry_config=_RETRY)
        return store
    except (BaseError, OSError) as error:
        raise ConfigError(f"artifacts={url}: it cannot be opened: {first_line(error)}") from error


class ObjectReader(io.RawIOBase):
    """An object of the store as a file to read from anywhere; size: its bytes."""

    def __init__(self, store: ObjectStore, path: str, size: int) -> None:
        self._store, self._path, self._size, self._at = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: "Buffer") -> int:
        into = memoryview(buffer)
        end = min(self._at + len(into), self._size)
        if self._at >= end:
            return 0
        got = memoryview(obstore.get_range(self._store, self._path, start=self._at, end=end))
        into[: len(got)] = got
        self._at += len(got)
        return len(got)


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turns what the store refuses into an error of ours. A missing object is a FileNotFoundError, as it was.

    ConfigError for credentials that it refuses, or that nobody gave, and for a bucket that is not there;
    RegistryUnavailable where it does not answer.
    """
    remedy = _REMEDIES.get(urlsplit(url).scheme, "let this user read and write the folder")
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error):
            raise
        raise ConfigError(f"artifacts={url}: there is no such bucket; make it, or name another") from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        said = first_line(error)
        raise ConfigError(f"artifacts={url}: the store refuses this user: {said}; {remedy}") from error
    except BaseError as error:
        if _INSTANCE_METADATA in str(error):
            raise ConfigError(f"artifacts={url}: there are no credentials; {remedy}") from error
        raise RegistryUnavailable(f"the artifact store {url} does not answer: {first_line(error)}") from error
