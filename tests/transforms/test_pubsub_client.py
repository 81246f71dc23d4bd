"""Credentials of Google Cloud that are missing, wrong, or not enough."""

from __future__ import annotations

import datetime
import http.server
import json
import pathlib
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.transport.grpc import secure_authorized_channel
from google.auth.transport.requests import Request
from google.cloud.pubsub_v1 import SubscriberClient
from google.oauth2 import service_account
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from skewless.errors import DataError
from skewless.transforms import pubsub_client
from skewless.transforms.sources.pubsub_reader import Subscription
from tests.servers.process import free_port

NAME = "projects/pro-test/subscriptions/abc"


@pytest.mark.parametrize("text", [None, "no JSON", '{"type": "no_such"}'])
def test_missing_credentials_are_named(
    text: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "key.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    said = r"no valid Google Cloud credentials \(.*key\.json.*\); run: gcloud"
    with pytest.raises(DataError, match=f"^ReadPubSub: {said}") as caught:
        pubsub_client.require("subscription", NAME, "ReadPubSub")
    with pytest.raises(DataError, match=f"^{NAME}: {said}"):
        Subscription(NAME).create_reader(None, None).start()
    assert "\n" not in str(caught.value)


class _Refuses(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server that answers everything with one status."""

    def __init__(self, status: grpc.StatusCode) -> None:
        self._status = status

    def service(self, handler_call_details: Any) -> Any:
        def refuse(request: bytes, context: Any) -> None:
            context.abort(self._status, "says the server")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    servers = []

    def start(status: grpc.StatusCode) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[_Refuses(status)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")

    yield start
    for server in servers:
        server.stop(None)


def test_credentials_that_are_not_taken(refuse: Any) -> None:
    refuse(grpc.StatusCode.UNAUTHENTICATED)
    said = r"no valid Google Cloud credentials \(.*says the server.*\); run: gcloud"
    with pytest.raises(DataError, match=f"^ReadPubSub: {said}"):
        pubsub_client.require("subscription", NAME, "ReadPubSub")
    with pytest.raises(DataError, match=f"^{NAME}: {said}"):
        Subscription(NAME).create_reader(None, None).start()


def test_rights_that_are_not_enough(refuse: Any) -> None:
    refuse(grpc.StatusCode.PERMISSION_DENIED)
    pubsub_client.require("subscription", NAME, "ReadPubSub")  # reading may be allowed
    said = r"permission denied \(.*says the server\); ask for the right to use the subscription"
    with pytest.raises(DataError, match=f"^{NAME}: {said}"):
        Subscription(NAME).create_reader(None, None).start()


class _NoToken(http.server.BaseHTTPRequestHandler):
    """What Google's token server says to a key that was deleted."""

    def do_POST(self) -> None:
        said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        body = json.dumps(said).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def token_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NoToken) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate(key: rsa.RSAPrivateKey) -> bytes:
    """Return a certificate of `localhost`, signed by itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def test_a_key_that_was_deleted(
    token_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = {
        "type": "service_account",
        "client_email": "nobody@pro-test.iam.gserviceaccount.com",
        "private_key": pem(key).decode(),
        "token_uri": token_server,
    }
    credentials = service_account.Credentials.from_service_account_info(account, scopes=["s"])
    server = grpc.server(futures.ThreadPoolExecutor(2))
    secure = grpc.ssl_server_credentials([(pem(key), certificate(key))])
    port = server.add_secure_port("localhost:0", secure)
    server.start()
    channel = secure_authorized_channel(
        credentials, Request(), f"localhost:{port}", grpc.ssl_channel_credentials(certificate(key))
    )
    client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
    monkeypatch.setattr(pubsub_client, "subscriber", lambda: client)
    said = r"ReadPubSub: no valid Google Cloud credentials \(.*invalid_grant.*\); run: gcloud"
    began = time.monotonic()
    with pytest.raises(DataError, match=said) as caught:
        pubsub_client.require("subscription", NAME, "ReadPubSub")
    assert time.monotonic() - began < pubsub_client._CONNECT_SECONDS / 2  # it is not tried again
    assert "\n" not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    server.stop(None)


def test_an_emulator_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(pubsub_client, "_CONNECT_SECONDS", 2.0)
    with pytest.raises(DataError, match="cannot be reached"):
        pubsub_client.require("topic", "projects/pro-test/topics/abc", "WritePubSub")
