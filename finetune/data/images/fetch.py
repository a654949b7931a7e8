"""An image from the net: http and https only, also after redirections, with limits of time and size."""

import http.client
import time
from typing import cast
from urllib import request
from urllib.error import HTTPError
from urllib.parse import quote

from finetune.data.images.decode import MOST_BYTES, too_large
from finetune.data.images.wrong import WrongImageError

SILENCE = 20
"""Seconds to wait for the server's next bytes."""
PATIENCE = 120
"""Seconds for one image, however slowly its bytes come."""

_PIECE = 1 << 16  # bytes
_HANDLERS = (
    request.ProxyHandler,
    request.HTTPHandler,
    request.HTTPSHandler,
    request.HTTPDefaultErrorHandler,
    request.HTTPRedirectHandler,
    request.HTTPErrorProcessor,
    request.UnknownHandler,  # a redirection to ftp:// ends here
)


def fetched(address: str) -> bytes:
    """What lies at a http(s) address. Raises WrongImageError: E312 not to be had, E315 too large."""
    try:
        asked = request.Request(quote(address, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": "finetune"})
        with _opener().open(asked, timeout=SILENCE) as response:
            return _content(response, address)
    except HTTPError as error:
        error.close()
        raise _not_had(address, f"the server answers {error.code} {error.reason}") from None
    except TimeoutError:
        raise _not_had(address, f"no answer for {SILENCE} seconds") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, WrongImageError):
            raise
        raise _not_had(address, str(getattr(error, "reason", "") or error or type(error).__name__)) from None


def _opener() -> request.OpenerDirector:
    """Without urllib's handlers of file:, ftp: and data:."""
    opener = request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(cast(request.BaseHandler, handler()))
    return opener


def _content(response: http.client.HTTPResponse, address: str) -> bytes:
    pieces, size, began = [], 0, time.monotonic()
    while piece := response.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise too_large(address, f"more than {MOST_BYTES // 10**6} MB")
        if time.monotonic() - began > PATIENCE:
            raise _not_had(address, f"only {size:,} bytes came in {PATIENCE} seconds")
    if response.length:
        raise _not_had(address, f"the connection broke after {size:,} bytes, {response.length:,} are missing")
    return b"".join(pieces)


def _not_had(address: str, why: str) -> WrongImageError:
    return WrongImageError("E312", f"{address}: cannot be fetched: {' '.join(why.split())}")
