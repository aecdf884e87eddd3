"""HTTP requests to one hub endpoint: redirects, the access token, and the meaning of error responses."""

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

from modules.core.errors import Words
from modules.hub.access_token import AccessToken
from modules.hub.connections import ConnectionPool
from modules.hub.endpoint_url import HUGGING_FACE, host_of, is_private_host, origin_of
from modules.hub.errors import (
    AccessDenied,
    DownloadError,
    FileNotOnHub,
    MirrorUnreachable,
    NotAHub,
    ProxyUnusable,
    RateLimited,
    RedirectUnreachable,
    RepositoryNotFound,
    RevisionNotFound,
    ServerFault,
    Stopped,
    TokenRefused,
)

MAX_REDIRECTS = 6
MAX_JSON_BYTES = 64 << 20
JSON_SECONDS = 120.0
MAX_RETRY_AFTER = 300.0  # seconds

CONNECTION_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What a broken connection raises, or one that is shut down while another thread reads from it."""

_DEFAULT_RETRY_AFTER = 30.0
_MAX_DRAINED_BYTES = 1 << 14
_MAX_TEXT = 200
_TRANSIENT_CLIENT_ERRORS = (408, 425)

_TOO_MANY_REDIRECTS: Words = {
    "en": f"more than {MAX_REDIRECTS} redirects",
    "zh": f"重定向超过 {MAX_REDIRECTS} 次",
}
_BAD_REDIRECT: Words = {"en": "a redirect to an invalid address", "zh": "重定向到无效地址"}
_BROKEN_JSON: Words = {"en": "invalid JSON", "zh": "JSON 无效"}
_TOO_MUCH_JSON: Words = {
    "en": f"more than {MAX_JSON_BYTES >> 20} MiB of JSON",
    "zh": f"JSON 超过 {MAX_JSON_BYTES >> 20} MiB",
}
_SLOW_JSON: Words = {
    "en": f"the answer was not complete after {JSON_SECONDS:.0f} s",
    "zh": f"{JSON_SECONDS:.0f} 秒内未能收完响应",
}
_BAD_PROXY: Words = {"en": "the proxy does not work", "zh": "代理不可用"}
_UNKNOWN_HOST: Words = {"en": "host name not found", "zh": "无法解析域名"}
_TIMEOUT: Words = {"en": "timeout", "zh": "响应超时"}
_BROKEN: Words = {"en": "the connection broke", "zh": "连接中断"}


@dataclass(frozen=True)
class Link:
    """A URL to request, and whether the access token goes with the request."""

    url: str
    authorized: bool = False


class HttpClient:
    """HTTP client of the hub at `endpoint`. Thread-safe."""

    def __init__(self, endpoint: str, token: AccessToken | None, connections: ConnectionPool) -> None:
        self.endpoint, self.host = endpoint, host_of(endpoint)
        self._token, self.connections = token, connections

    def link(self, path: str) -> Link:
        """Return the link to `path`, which is already quoted, on the endpoint."""
        url = self.endpoint + path
        return Link(url, self._token is not None and self._token.may_be_sent_to(url))

    # -- requests and redirects --------------------------------------------------------------------------------------

    def follow(self, link: Link, headers: Mapping[str, str] | None = None) -> tuple[requests.Response, Link]:
        """Send a GET request and follow its redirects.

        Returns the final response, its body unread, and the link it came from. Raises DownloadError.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(link, headers or {})
            if not response.is_redirect:
                return response, link
            _discard(response)
            link = self._redirected(link, _decode_header(response.headers["Location"]))
        raise NotAHub(self.host, _TOO_MANY_REDIRECTS)

    def _get(self, link: Link, headers: Mapping[str, str]) -> requests.Response:
        if self.connections.closed:
            raise Stopped()
        authorization = self._token.header if self._token is not None and link.authorized else {}
        try:
            return self.connections.get(link.url, {**headers, **authorization})
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise self._address_failure(link, error) from error
        except CONNECTION_ERRORS as error:
            failure = self.connection_failure(link, error)
            redirected = origin_of(link.url) != origin_of(self.endpoint)
            if redirected and isinstance(failure, MirrorUnreachable):
                failure = RedirectUnreachable(self.host, host_of(link.url))
            raise failure from error

    def _address_failure(self, link: Link, error: Exception) -> DownloadError:
        """Return the error for an invalid address: that of the proxy, or `link`, to which the mirror has redirected."""
        # The scheme of a link has been checked, so an unknown one is that of the proxy.
        of_proxy = isinstance(error, (requests.exceptions.InvalidProxyURL, requests.exceptions.InvalidSchema))
        unredirected = origin_of(link.url) == origin_of(self.endpoint)
        if of_proxy or (unredirected and _uses_proxy(link.url)):
            return ProxyUnusable()
        return NotAHub(self.host, _BAD_REDIRECT)

    def _redirected(self, link: Link, location: str) -> Link:
        """Return the link that `location` leads to, if a redirect may lead there. Raises NotAHub."""
        try:
            url = urldefrag(urljoin(link.url, location)).url
            origin, name = origin_of(url), urlsplit(url).hostname or ""
        except ValueError:
            raise NotAHub(self.host, _BAD_REDIRECT) from None
        scheme, shown = urlsplit(url).scheme, host_of(url)
        if scheme not in ("http", "https") or not name:
            shown = (scheme or "nowhere")[:20]
            raise NotAHub(self.host, {"en": f"a redirect to {shown}:", "zh": f"重定向到 {shown}:"})
        if scheme == "http" and link.url.startswith("https:"):
            raise NotAHub(
                self.host,
                {"en": f"a redirect from https to http, to {shown}", "zh": f"从 https 重定向到不加密的 http：{shown}"},
            )
        # Over https the name need not be resolved: no server in the private network can present a certificate for it.
        resolve = scheme == "http" and not _uses_proxy(url)
        if origin != origin_of(link.url) and is_private_host(name, resolve) and not self._is_private:
            raise NotAHub(
                self.host,
                {"en": f"a redirect into the local network, to {shown}", "zh": f"重定向到内网地址 {shown}"},
            )
        return Link(url, self._keeps_token(link, url))

    @property
    def _is_private(self) -> bool:
        """Whether the endpoint itself is in a private network, and may therefore redirect within it."""
        return is_private_host(urlsplit(self.endpoint).hostname or "", resolve=not _uses_proxy(self.endpoint))

    def _keeps_token(self, link: Link, url: str) -> bool:
        if origin_of(url) == origin_of(link.url):
            return link.authorized
        from_mirror = origin_of(link.url) == origin_of(self.endpoint)
        return from_mirror and self._token is not None and self._token.may_follow_redirect(link.url, url)

    # -- responses ---------------------------------------------------------------------------------------------------

    def get_json(self, link: Link, repo: str) -> tuple[object, requests.Response]:
        """Return the decoded JSON at `link`, and the response for its headers. Raises DownloadError."""
        response, last = self.follow(link)
        with contextlib.closing(response):
            if response.status_code != 200:
                raise self.error_for(response, last, repo)
            if not _is_json(response):
                got = _media_type(response)
                raise NotAHub(
                    self.host,
                    {"en": f"{got or 'no media type'} instead of JSON", "zh": f"返回 {got or '未知类型'}，而非 JSON"},
                )
            try:
                return json.loads(self._read_body(response, last)), response
            except (ValueError, RecursionError) as error:
                raise NotAHub(self.host, _BROKEN_JSON) from error

    def _read_body(self, response: requests.Response, link: Link) -> bytes:
        deadline, body = time.monotonic() + JSON_SECONDS, bytearray()
        for piece in self._iterate_body(response, link):
            body += piece
            if len(body) > MAX_JSON_BYTES:
                raise NotAHub(self.host, _TOO_MUCH_JSON)
            if time.monotonic() > deadline:
                raise MirrorUnreachable(self.host, _SLOW_JSON)
        return bytes(body)

    def _iterate_body(self, response: requests.Response, link: Link) -> Iterator[bytes]:
        try:
            while piece := response.raw.read1(1 << 16, decode_content=True):
                yield piece
        except CONNECTION_ERRORS as error:
            raise self.connection_failure(link, error) from error

    def connection_failure(self, link: Link, error: Exception) -> DownloadError:
        """Translate the exception that ended a connection; Stopped if this client was closed."""
        return Stopped() if self.connections.closed else MirrorUnreachable(host_of(link.url), _reason(error))

    def is_cdn(self, link: Link) -> bool:
        """Whether `link` leads to the storage of large files and not to a hub."""
        return origin_of(link.url) not in (origin_of(self.endpoint), HUGGING_FACE)

    def error_for(self, response: requests.Response, link: Link, repo: str, file: str = "") -> DownloadError:
        """Translate an error response to a request for `file`, or for a list if `file` is empty."""
        code, host = response.status_code, host_of(link.url)
        if code == 429:
            return RateLimited(host, _retry_after(response.headers))
        if code in _TRANSIENT_CLIENT_ERRORS or code >= 500 or (self.is_cdn(link) and code in (401, 403, 404, 410)):
            return ServerFault(host, code)
        name, message = self._hub_error(response, link)
        if name == "GatedRepo":
            return AccessDenied(repo)
        if code == 401 and link.authorized:
            return TokenRefused(host)
        if name == "RevisionNotFound" or message.startswith("Invalid rev id"):
            return RevisionNotFound(repo, "", ())
        if name == "EntryNotFound" or (file and code == 404 and not name and _is_json(response)):
            return FileNotOnHub(repo, file)
        if name == "RepoNotFound" or (code in (401, 404) and not name and _is_json(response)):
            return RepositoryNotFound(host, repo)
        return NotAHub(host, f"HTTP {code}: {message or name or _media_type(response) or '–'}")

    def _hub_error(self, response: requests.Response, link: Link) -> tuple[str, str]:
        """Return the code of a hub's error, such as "GatedRepo", and its message; both may be empty."""
        message = response.headers.get("X-Error-Message", "")
        if not message and _is_json(response):
            with contextlib.suppress(ValueError, RecursionError, AttributeError, DownloadError):
                message = str(json.loads(self._read_body(response, link)).get("error", ""))
        message = "".join(char if char.isprintable() else " " for char in message[:_MAX_TEXT])
        return response.headers.get("X-Error-Code", "")[:_MAX_TEXT], message


def is_web_page(response: requests.Response) -> bool:
    """Whether the response is a web page, such as a login or a captcha."""
    return _media_type(response) in ("text/html", "application/xhtml+xml")


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()[:_MAX_TEXT]


def _is_json(response: requests.Response) -> bool:
    return _media_type(response) == "application/json"


def _uses_proxy(url: str) -> bool:
    """Whether a proxy will resolve the host name, not this machine."""
    return bool(select_proxy(url, get_environ_proxies(url)))


def _decode_header(header: str) -> str:
    """Decode a header as UTF-8; the HTTP library has decoded it as Latin-1."""
    return header.encode("latin-1", "replace").decode("utf-8", "replace")


def _discard(response: requests.Response) -> None:
    """Close a response whose body is not needed; a small body is read first so that its connection can be reused."""
    length = response.headers.get("Content-Length", "")
    with contextlib.closing(response), contextlib.suppress(*CONNECTION_ERRORS):
        if length.isdecimal() and int(length) <= _MAX_DRAINED_BYTES:
            # One byte more: urllib3 returns at once, without reading, when 0 bytes are requested.
            response.raw.read(int(length) + 1, decode_content=False)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds until the next request is allowed."""
    after = headers.get("Retry-After", "").strip()
    window = re.search(r"\bt=(\d{1,9})\b", headers.get("RateLimit", ""))
    seconds = _DEFAULT_RETRY_AFTER
    if re.fullmatch(r"\d{1,9}", after):
        seconds = float(after)
    elif after:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(after).timestamp() - time.time()
    elif window:
        seconds = float(window[1])
    return min(max(seconds, 1.0), MAX_RETRY_AFTER)


def _reason(error: BaseException) -> str | Words:
    """Return the innermost reason of an exception that libraries have wrapped."""
    if isinstance(error, requests.exceptions.ProxyError):
        return _BAD_PROXY
    causes = list(_causes(error))
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return _UNKNOWN_HOST
    system_messages = [str(cause.strerror) for cause in causes if isinstance(cause, OSError) and cause.strerror]
    if system_messages:
        return system_messages[-1]
    timeouts = (requests.Timeout, TimeoutError, urllib3.exceptions.TimeoutError)
    return _TIMEOUT if any(isinstance(cause, timeouts) for cause in causes) else _BROKEN


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions nested in it, outermost first."""
    seen: list[BaseException] = []
    queue = [error]
    while queue:
        cause = queue.pop(0)
        if any(cause is other for other in seen):
            continue
        seen.append(cause)
        nested = [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
        queue += [other for other in nested if isinstance(other, BaseException)]
        yield cause
