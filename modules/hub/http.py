"""Asking a mirror, and what its answers mean: which redirects are followed, who sees the token, what went wrong."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urldefrag, urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, select_proxy

from modules.hub.connections import Connections
from modules.hub.endpoints import HUGGING_FACE, Token, host, is_inside, origin
from modules.hub.errors import (
    AccessDenied,
    DownloadError,
    FileNotOnHub,
    MirrorUnreachable,
    NotAHub,
    RateLimited,
    RedirectUnreachable,
    RepositoryNotFound,
    RevisionNotFound,
    ServerFault,
    Stopped,
    TokenRefused,
)

MOST_REDIRECTS = 6
LARGEST_PAGE = 64 << 20  # bytes
PAGE_SECONDS = 120.0
LONGEST_WAIT = 300.0  # seconds

BREAKS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What comes of a connection that breaks, or is shut down under the hands of its reader."""

_USUAL_WAIT = 30.0
_SMALL = 1 << 14  # of the body of a redirect: read, so that its connection can be used again
_TOLD = 200
_AGAIN = (408, 425)


@dataclass(frozen=True)
class Link:
    """Where to ask, and whether the token goes along."""

    url: str
    authorised: bool = False


class Client:
    """One mirror, at `endpoint`. Every method may be called from any thread."""

    def __init__(self, endpoint: str, token: Token | None, connections: Connections) -> None:
        self.endpoint, self.host = endpoint, host(endpoint)
        self._token, self.connections = token, connections

    def link(self, path: str) -> Link:
        """`path`, quoted, on the endpoint."""
        url = self.endpoint + path
        return Link(url, self._token is not None and self._token.goes_to(url))

    def follow(self, link: Link, headers: Mapping[str, str] | None = None) -> tuple[requests.Response, Link]:
        """The answer at the end of all redirects, its body still on the way, and where it came from. DownloadError."""
        for _ in range(MOST_REDIRECTS + 1):
            response = self._ask(link, headers or {})
            if not response.is_redirect:
                return response, link
            _let_go(response)
            link = self._redirected(link, _text(response.headers["Location"]))
        raise NotAHub(self.host, f"more than {MOST_REDIRECTS} redirects")

    def _ask(self, link: Link, headers: Mapping[str, str]) -> requests.Response:
        if self.connections.closed:
            raise Stopped()
        secret = self._token.header if self._token is not None and link.authorised else {}
        try:
            return self.connections.get(link.url, {**headers, **secret})
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise NotAHub(self.host, "a redirect to an impossible address") from error
        except BREAKS as error:
            broken = self.broken(link, error)
            away = isinstance(broken, MirrorUnreachable) and origin(link.url) != origin(self.endpoint)
            raise (RedirectUnreachable(self.host, host(link.url)) if away else broken) from error

    def _redirected(self, link: Link, target: str) -> Link:
        try:
            url = urldefrag(urljoin(link.url, target)).url
            there, name = origin(url), urlsplit(url).hostname or ""
        except ValueError:
            raise NotAHub(self.host, "a redirect to an impossible address") from None
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https") or not name:
            raise NotAHub(self.host, f"a redirect to {(scheme or 'nowhere')[:20]}:")
        if scheme == "http" and link.url.startswith("https:"):
            raise NotAHub(self.host, f"a redirect from https to http, at {host(url)}")
        # Over https a name need not be looked up: nothing inside can prove that it is called so.
        ask = scheme == "http" and not _proxy(url)
        if there != origin(link.url) and is_inside(name, ask) and not self._is_inside:
            raise NotAHub(self.host, f"a redirect into the local network, to {host(url)}")
        return Link(url, self._goes_along(link, url))

    @property
    def _is_inside(self) -> bool:
        """Whether the mirror itself is, which may then lead to its neighbours."""
        return is_inside(urlsplit(self.endpoint).hostname or "", ask=not _proxy(self.endpoint))

    def _goes_along(self, link: Link, url: str) -> bool:
        if origin(url) == origin(link.url):
            return link.authorised
        from_mirror = origin(link.url) == origin(self.endpoint)
        return from_mirror and self._token is not None and self._token.follows(link.url, url)

    # -- answers ----------------------------------------------------------------------------------------------------

    def page(self, link: Link, repo: str) -> tuple[object, requests.Response]:
        """What the JSON there says, and the answer's headers. DownloadError."""
        response, last = self.follow(link)
        with contextlib.closing(response):
            if response.status_code != 200:
                raise self.fault(response, last, repo)
            if not _is_json(response):
                raise NotAHub(self.host, f"{_kind(response) or 'no type'} instead of JSON")
            try:
                return json.loads(self._body(response, last)), response
            except (ValueError, RecursionError) as error:
                raise NotAHub(self.host, "broken JSON") from error

    def _body(self, response: requests.Response, link: Link) -> bytes:
        until, body = time.monotonic() + PAGE_SECONDS, bytearray()
        for piece in self._pieces(response, link):
            body += piece
            if len(body) > LARGEST_PAGE:
                raise NotAHub(self.host, f"a list of more than {LARGEST_PAGE >> 20} MiB")
            if time.monotonic() > until:
                raise MirrorUnreachable(self.host, f"a list is not complete after {PAGE_SECONDS:.0f} s")
        return bytes(body)

    def _pieces(self, response: requests.Response, link: Link) -> Iterator[bytes]:
        try:
            while piece := response.raw.read1(1 << 16, decode_content=True):
                yield piece
        except BREAKS as error:
            raise self.broken(link, error) from error

    def broken(self, link: Link, error: Exception) -> DownloadError:
        """What to say of a connection that `error` ended."""
        return Stopped() if self.connections.closed else MirrorUnreachable(host(link.url), _why(error))

    def is_elsewhere(self, link: Link) -> bool:
        """Whether that is no hub but where a hub keeps its large files."""
        return origin(link.url) not in (origin(self.endpoint), HUGGING_FACE)

    def fault(self, response: requests.Response, link: Link, repo: str, file: str = "") -> DownloadError:
        """What to say of an answer that is no success, to the question for `file` or for a list."""
        code, name = response.status_code, host(link.url)
        if code == 429:
            return RateLimited(name, _wait(response.headers))
        if code in _AGAIN or code >= 500 or (self.is_elsewhere(link) and code in (401, 403, 404, 410)):
            return ServerFault(name, code)
        what, words = self._told(response, link)
        if what == "GatedRepo":
            return AccessDenied(repo)
        if code == 401 and link.authorised:
            return TokenRefused(name)
        if what == "RevisionNotFound" or words.startswith("Invalid rev id"):
            return RevisionNotFound(repo, "", ())
        if what == "EntryNotFound" or (file and code == 404 and not what and _is_json(response)):
            return FileNotOnHub(repo, file)
        if what == "RepoNotFound" or (code in (401, 404) and not what and _is_json(response)):
            return RepositoryNotFound(name, repo)
        return NotAHub(name, f"HTTP {code}: {words or what or _kind(response) or 'no more'}")

    def _told(self, response: requests.Response, link: Link) -> tuple[str, str]:
        """The code of a hub's error, and its own words."""
        words = response.headers.get("X-Error-Message", "")
        if not words and _is_json(response):
            with contextlib.suppress(ValueError, RecursionError, AttributeError, DownloadError):
                words = str(json.loads(self._body(response, link)).get("error", ""))
        shown = "".join(each if each.isprintable() else " " for each in words[:_TOLD])
        return response.headers.get("X-Error-Code", "")[:_TOLD], shown


def is_page(response: requests.Response) -> bool:
    """Whether it is a web page, as a login or a captcha is."""
    return _kind(response) in ("text/html", "application/xhtml+xml")


def _kind(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()[:_TOLD]


def _is_json(response: requests.Response) -> bool:
    return _kind(response) == "application/json"


def _proxy(url: str) -> bool:
    """Whether a proxy will look up the name, not we."""
    return bool(select_proxy(url, get_environ_proxies(url)))


def _text(header: str) -> str:
    """Headers come as if they were Latin-1; those with other letters are UTF-8."""
    return header.encode("latin-1", "replace").decode("utf-8", "replace")


def _let_go(response: requests.Response) -> None:
    """Of an answer whose body nobody wants; a small one is read, after which its connection is free."""
    length = response.headers.get("Content-Length", "")
    with contextlib.closing(response), contextlib.suppress(*BREAKS):
        if length.isdecimal() and int(length) <= _SMALL:
            response.raw.read(int(length) + 1, decode_content=False)  # urllib3 answers a wish for 0 without a look


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds until one may ask again."""
    after = headers.get("Retry-After", "").strip()
    window = re.search(r"\bt=(\d{1,9})\b", headers.get("RateLimit", ""))
    seconds = _USUAL_WAIT
    if re.fullmatch(r"\d{1,9}", after):
        seconds = float(after)
    elif after:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(after).timestamp() - time.time()
    elif window:
        seconds = float(window[1])
    return min(max(seconds, 1.0), LONGEST_WAIT)


def _why(error: BaseException) -> str:
    """The innermost reason of an error that others have wrapped."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not work"
    causes = list(_causes(error))
    if any(isinstance(each, urllib3.exceptions.NameResolutionError) for each in causes):
        return "its name is not known"
    words = [str(each.strerror) for each in causes if isinstance(each, OSError) and each.strerror]
    if words:
        return words[-1]
    late = (requests.Timeout, TimeoutError, urllib3.exceptions.TimeoutError)
    return "no answer in time" if any(isinstance(each, late) for each in causes) else "the connection broke"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what is within it, the outermost first."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if any(each is other for other in seen):
            continue
        seen.append(each)
        within = [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
        waiting += [other for other in within if isinstance(other, BaseException)]
        yield each
