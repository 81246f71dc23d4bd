"""Google Cloud Pub/Sub behind one door: names, clients, and errors a person can act on.

Credentials are those of the machine (Application Default Credentials), found by the client
where it runs; `PUBSUB_EMULATOR_HOST` points it at an emulator.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any, Literal

from skewless.errors import DataError, RecipeError

__all__ = ["check_name", "failure", "publisher", "require", "subscriber"]

Kind = Literal["topic", "subscription"]

_EMULATOR = "PUBSUB_EMULATOR_HOST"
_CONNECT_SECONDS = 20.0


def check_name(kind: Kind, name: str, where: str) -> None:
    """Check that `name` is the full name of a topic or subscription, without any I/O.

    Raises:
        RecipeError: If it is not.
    """
    if not re.fullmatch(rf"projects/[a-z][a-z0-9:.-]{{3,}}/{kind}s/[A-Za-z][\w.~+%-]{{2,}}", name):
        raise RecipeError(f'{where} {kind}="{name}": expected projects/<project>/{kind}s/<{kind}>')


def subscriber() -> Any:
    """Return this process's subscriber client."""
    return _subscriber(os.environ.get(_EMULATOR, ""))


def publisher() -> Any:
    """Return this process's publisher client."""
    return _publisher(os.environ.get(_EMULATOR, ""))


@functools.cache
def _subscriber(_endpoint: str) -> Any:
    from google.cloud.pubsub_v1 import SubscriberClient

    return SubscriberClient()


@functools.cache
def _publisher(_endpoint: str) -> Any:
    from google.cloud.pubsub_v1 import PublisherClient

    return PublisherClient()


def require(kind: Kind, name: str, where: str) -> None:
    """Check that a topic or subscription exists.

    Whoever may not look passes: reading and publishing need not include that right.

    Raises:
        DataError: If it does not, there are no credentials, or Pub/Sub cannot be reached.
    """
    from google.api_core import exceptions, retry
    from google.auth.exceptions import GoogleAuthError

    again = retry.Retry(
        predicate=lambda error: (
            isinstance(error, exceptions.ServiceUnavailable) and not _about_credentials(error)
        ),
        timeout=_CONNECT_SECONDS,
    )
    try:
        if kind == "topic":
            publisher().get_topic(topic=name, retry=again, timeout=_CONNECT_SECONDS)
        else:
            subscriber().get_subscription(subscription=name, retry=again, timeout=_CONNECT_SECONDS)
    except exceptions.PermissionDenied:
        return
    except (exceptions.GoogleAPIError, GoogleAuthError) as error:
        raise failure(error, kind, where) from None


def _about_credentials(error: Exception) -> bool:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    # gRPC hides what went wrong with a token behind "unavailable".
    return isinstance(error, (exceptions.Unauthenticated, GoogleAuthError)) or (
        "Getting metadata from plugin failed" in str(error)
    )


def failure(error: Exception, kind: Kind, where: str) -> DataError:
    """Return the error for a person; `where` names the topic or subscription."""
    from google.api_core import exceptions

    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, exceptions.NotFound):
        text = f"there is no such {kind}; create it, or check the name and the project"
    elif _about_credentials(error):
        text = (
            f"no valid Google Cloud credentials ({said}); run: gcloud auth "
            "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
        )
    elif isinstance(error, exceptions.PermissionDenied):
        text = f"permission denied ({said}); ask for the right to use the {kind}"
    else:
        text = f"Pub/Sub cannot be reached or refuses ({said}); check the network and {_EMULATOR}"
    return DataError(f"{where}: {text}")
