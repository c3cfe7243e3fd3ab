"""DICOMweb: series found at a server and fetched into the cache folder, and objects stored there."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from medfuse.core.errors import DataError, MedfuseError, OutputError, lacks, reason
from medfuse.core.files import atomic, make_folder
from medfuse.core.json_text import shortened
from medfuse.core.remembered import cache_folder, make_private
from medfuse.core.reporter import Reporter
from medfuse.core.text import listed

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient

PREFIX = "dicomweb:"
USER, PASSWORD, TOKEN = (f"MEDFUSE_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
"""Variables of the environment with what a server asks for; else ~/.netrc is asked."""

_STUDY, _SERIES = "StudyInstanceUID", "SeriesInstanceUID"
_NARROW = (_STUDY, _SERIES, "PatientID", "AccessionNumber")
_NO_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "SR", "PR", "KO", "DOC", "AU", "ECG", "FID")
_UID = re.compile(r"[0-9.]{1,64}")
_MOST = 100_000  # instances of a series, and series that a search finds
_THREADS = 4
_TIMES, _WAIT_MS, _TIMEOUT_S = 3, 200, 60.0


@dataclass(frozen=True)
class Address:
    """A server, and what is wanted of it (by QIDO and WADO): DICOM keywords with their values."""

    url: str
    wanted: tuple[tuple[str, str], ...] = ()

    @property
    def study(self) -> str:
        return dict(self.wanted).get(_STUDY, "")

    def __str__(self) -> str:
        said = "&".join(f"{key}={value}" for key, value in self.wanted)
        return f"{PREFIX}{self.url}{'?' if said else ''}{said}"


@dataclass(frozen=True)
class _Series:
    study: str
    uid: str
    modality: str
    described: str


def is_remote(place: str | Path) -> bool:
    return str(place).startswith(PREFIX)


def address_of(text: str | Path, *, search: bool = True) -> Address:
    """What `dicomweb:https://HOST/PATH?StudyInstanceUID=…` says; without `search` a server alone.

    Raises DataError.
    """
    said = re.sub(rf"^{PREFIX}(https?):/+", rf"{PREFIX}\1://", str(text))  # a path has lost a stroke
    try:
        parts = urlsplit(said.removeprefix(PREFIX))
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise DataError(f"{shortened(said)}: is no address; write {PREFIX}https://HOST/PATH?{_STUDY}=UID")
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    if "@" in parts.netloc:
        raise DataError(
            f"{PREFIX}{plain}: holds a user or a password; set {USER} and {PASSWORD}, or use ~/.netrc"
        )
    wanted = tuple(parse_qsl(parts.query, keep_blank_values=True))
    _check(f"{PREFIX}{plain}", wanted, search=search)
    return Address(plain, wanted)


def _check(where: str, wanted: Sequence[tuple[str, str]], *, search: bool) -> None:
    from pydicom.datadict import tag_for_keyword

    if not search:
        if wanted:
            raise DataError(f"{where}: to store, give the server alone, without ? and what follows")
        return
    for key, value in wanted:
        if tag_for_keyword(key) is None:
            raise DataError(f"{where}: DICOM has no {shortened(key)!r}; write a keyword such as Modality=CT")
        if key in (_STUDY, _SERIES) and not _UID.fullmatch(value):
            raise DataError(f"{where}: {key}={shortened(value)!r} is no UID; write digits and dots")
    if not any(key in _NARROW and value.strip("*? ") for key, value in wanted):
        raise DataError(
            f"{where}: would fetch all that is there; add ? and one of {', '.join(_NARROW)}, =VALUE"
        )


def fetched(address: Address, reporter: Reporter) -> list[Path]:
    """A folder for each series, in the cache folder, with its instances as they are at the server now.

    What is there already is not fetched again, and what was half fetched is carried on. Raises DataError.
    """
    with _spoken(str(address)):
        found = _find(_client(address.url), address)
        if not found:
            raise DataError(f"{address}: no series with images is there; check the UIDs")
        return [_fetch(address, series, reporter) for series in found]


def local(places: Sequence[str | Path], reporter: Reporter) -> list[Path]:
    """Files and folders as they are; of addresses, which come last, what is fetched. Raises DataError."""
    remote = [address_of(place) for place in places if is_remote(place)]
    here = [Path(place) for place in places if not is_remote(place)]
    return here + [folder for address in remote for folder in fetched(address, reporter)]


def _find(client: DICOMwebClient, address: Address) -> list[_Series]:
    filters = {key: value for key, value in address.wanted if key != _STUDY}
    named = _SERIES in filters
    items = _all(
        lambda **pages: client.search_for_series(address.study or None, search_filters=filters, **pages),
        _SERIES,
    )
    made = []
    for item in items:
        study, uid = _said(item, _STUDY) or address.study, _said(item, _SERIES)
        if not (_UID.fullmatch(study) and _UID.fullmatch(uid)):
            raise DataError(f"{address}: a series there has no proper UID ({shortened(uid or study)!r})")
        modality = _said(item, "Modality")
        if named or modality not in _NO_IMAGES:
            made.append(_Series(study, uid, modality, _said(item, "SeriesDescription")))
    return sorted(made, key=lambda series: series.uid)


def _all(search: Callable[..., list[Any]], keyword: str) -> list[Any]:
    """All that a search finds, page by page; servers that know no pages give all at once, again and again."""
    found: dict[str, Any] = {}
    while len(found) < _MOST:
        page = search(**({"offset": len(found)} if found else {}))
        new = {uid: item for item in page if (uid := _said(item, keyword)) not in found}
        if not new:
            break
        found |= new
    return list(found.values())


def _said(item: Mapping[str, Any], keyword: str) -> str:
    """A value of an answer in DICOM's JSON, as text."""
    from pydicom.datadict import tag_for_keyword

    values = item.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
    return str(values[0]).strip()


def _fetch(address: Address, series: _Series, reporter: Reporter) -> Path:
    key = repr((address.url, series.study, series.uid))
    folder = cache_folder() / "dicomweb" / hashlib.sha256(key.encode()).hexdigest()[:16]
    make_private(folder)
    make_folder(folder)
    client = _client(address.url)
    items = _all(
        lambda **pages: client.search_for_instances(series.study, series.uid, **pages), "SOPInstanceUID"
    )
    uids = [_said(item, "SOPInstanceUID") for item in items]
    if not uids or not all(_UID.fullmatch(uid) for uid in uids):
        raise DataError(
            f"{address}: series {series.uid} has no instances there, or some without a proper UID"
        )
    for path in folder.glob("*.dcm"):
        if path.stem not in uids:  # the series is another now
            path.unlink()
    left = [uid for uid in uids if not (folder / f"{uid}.dcm").is_file()]
    what = (
        f"fetching {series.modality} {series.described or series.uid}: {len(left)} of {len(uids)} instances"
    )
    if left:
        reporter.say(what)
    with reporter.track(what, len(left)) as advance, _Threads(address.url) as threads:
        for done, uid in enumerate(threads.run(lambda own, uid: _save(own, series, uid, folder), left), 1):
            advance(done, uid)
    return folder


def _save(client: DICOMwebClient, series: _Series, uid: str, folder: Path) -> str:
    made = client.retrieve_instance(series.study, series.uid, uid)
    if (got := str(made.get("SOPInstanceUID"))) != uid or str(made.get(_SERIES)) != series.uid:
        raise DataError(f"{client.base_url}: sent {shortened(got)} where {uid} of {series.uid} was asked for")
    with atomic(folder / f"{uid}.dcm") as temporary:
        made.save_as(temporary, enforce_file_format=True)
    return uid


class _Threads:
    """Some threads, each with a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url, self._own = url, threading.local()
        self._pool = ThreadPoolExecutor(_THREADS, "fetching")

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[[DICOMwebClient, str], str], uids: Sequence[str]) -> Iterator[str]:
        def one(uid: str) -> str:
            if not hasattr(self._own, "client"):
                self._own.client = _client(self._url)
            return work(self._own.client, uid)

        return self._pool.map(one, uids)


def stored(url: str, paths: Sequence[Path], reporter: Reporter) -> int:
    """Store DICOM files at a server, and count them. The same file again changes nothing there.

    Raises OutputError where the server takes one of them not.
    """
    from pydicom import dcmread

    client, refused = _client(url), []
    with reporter.track(f"storing at {url}", len(paths)) as advance:
        for done, path in enumerate(paths, 1):
            with _spoken(f"{PREFIX}{url}", OutputError):
                answer = client.store_instances([dcmread(path)])
            refused += [path.name for _ in answer.get("FailedSOPSequence") or ()]
            advance(done, path.name)
    if refused:
        raise OutputError(
            f"{PREFIX}{url}: did not take {listed(refused, 3)}; see its log, and run the same command again"
        )
    return len(paths)


def _client(url: str) -> DICOMwebClient:
    """Raises DataError where the package is missing."""
    try:
        import requests
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise DataError(f"{PREFIX}… {lacks(error)}") from error
    session = requests.Session()
    user, token = os.environ.get(USER), os.environ.get(TOKEN)
    if token:
        session.auth = _Bearer(token)
    elif user:
        session.auth = (user, os.environ.get(PASSWORD, ""))
    try:
        client = DICOMwebClient(url, session, chunk_size=1 << 30, timeout=_TIMEOUT_S)
    except ValueError as error:
        raise DataError(f"{PREFIX}{url}: is no address of a server ({error})") from error
    client.set_http_retry_params(True, max_attempts=_TIMES, wait_exponential_multiplier=_WAIT_MS)
    return client


@dataclass(frozen=True)
class _Bearer:
    """Sends a token. As `auth` of a session it goes to no other host, whatever a server says."""

    token: str

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


@contextmanager
def _spoken(where: str, raises: type[MedfuseError] = DataError) -> Iterator[None]:
    """What goes wrong on the way to a server, in a line."""
    import requests

    try:
        yield
    except MedfuseError:
        raise
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            remedy = f"set {USER} and {PASSWORD}, or {TOKEN}, or write the host into ~/.netrc"
        else:
            remedy = "check the address and the UIDs" if status < 500 else "see its log, or try again later"
        raise raises(f"{where}: the server refuses ({status}); {remedy}") from error
    except requests.exceptions.SSLError as error:
        raise raises(
            f"{where}: its certificate is not trusted; set REQUESTS_CA_BUNDLE to that of its issuer"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise raises(
            f"{where}: cannot be reached; check the address, and run the same command again"
        ) from error
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise raises(f"{where}: {reason(error)}; run the same command again") from error
        raise
    except Exception as error:  # of the client and of pydicom, about what the server sent
        raise raises(f"{where}: its answer cannot be used ({shortened(reason(error), 160)})") from error
