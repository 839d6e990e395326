"""Texts of engines and registries, told apart. Each line is an answer as it was seen or as its source writes it."""

from __future__ import annotations

import docker.errors
import pytest
import requests

from runtimes import errors
from runtimes.docker_errors import from_api, from_pull, translated

PULLS = [
    ("manifest for x:2 not found: manifest unknown: manifest unknown", errors.ImageMissing),
    ("manifest unknown: manifest tagged by 2 is not found", errors.ImageMissing),
    ("no matching manifest for linux/arm64/v8 in the manifest list entries", errors.ImageMissing),
    (
        "pull access denied for nothing, repository does not exist or may require 'docker login': denied:"
        " requested access to the resource is denied",
        errors.ImageDenied,
    ),
    ("unauthorized: authentication required", errors.ImageDenied),
    ("error parsing HTTP 403 response body: denied: permission_denied", errors.ImageDenied),
    (
        "Head https://r.example/v2/x/manifests/1: unauthorized: incorrect username or password",
        errors.ImageDenied,
    ),
    ("Get https://r.example/v2/: dial tcp: lookup r.example: no such host", errors.RegistryUnreachable),
    ("Get https://r.example/v2/: net/http: TLS handshake timeout", errors.RegistryUnreachable),
    ("Get https://r.example/v2/: x509: certificate signed by unknown authority", errors.RegistryUnreachable),
    (
        "Get https://10.0.0.1:5000/v2/: http: server gave HTTP response to HTTPS client",
        errors.RegistryUnreachable,
    ),
    ("received unexpected HTTP status: 503 Service Unavailable", errors.RegistryUnreachable),
    ("unexpected EOF", errors.RegistryUnreachable),
    ("toomanyrequests: You have reached your pull rate limit.", errors.RegistryUnreachable),
    ("failed to register layer: write /usr/lib/x: no space left on device", errors.NoSpace),
    ("something that nobody has ever said", errors.RuntimeFailure),
]

ANSWERS = [
    (500, "mkdir /var/lib/docker/overlay2/x: no space left on device", errors.NoSpace),
    (404, "No such image: x:1", errors.ImageMissing),
    (500, 'could not select device driver "" with capabilities: [[gpu]]', errors.GpuUnavailable),
    (500, "nvidia-container-cli: device error: GPU-1: unknown device: unknown", errors.GpuUnavailable),
    (500, "Bind for 127.0.0.1:80 failed: port is already allocated", errors.PortTaken),
    (
        500,
        "no available IPv4 addresses on this network's address pools: berth-x (1)",
        errors.AddressPoolExhausted,
    ),
    (
        400,
        'OCI runtime create failed: exec: "vllm": executable file not found in $PATH: unknown',
        errors.CommandNotFound,
    ),
    (400, "Minimum memory limit allowed is 6MB", errors.InvalidSpec),
    (503, "service unavailable", errors.RuntimeUnreachable),
    (500, "something that nobody has ever said", errors.RuntimeFailure),
    (404, "page not found", errors.RuntimeFailure),
]


@pytest.mark.parametrize(("text", "kind"), PULLS)
def test_pulls(text: str, kind: type[errors.RuntimeFailure]) -> None:
    failure = from_pull(text)
    assert type(failure) is kind
    assert failure.evidence == text


@pytest.mark.parametrize(("status", "text", "kind"), ANSWERS)
def test_answers(status: int, text: str, kind: type[errors.RuntimeFailure]) -> None:
    response = requests.Response()
    response.status_code = status
    failure = from_api(docker.errors.APIError("", response=response, explanation=text))
    assert type(failure) is kind
    assert failure.evidence == text


def test_a_socket_that_may_not_be_opened() -> None:
    def connect() -> None:
        with translated():
            try:
                try:
                    raise PermissionError(13, "Permission denied")
                except PermissionError as error:
                    raise requests.exceptions.ConnectionError("Connection aborted.", error) from error
            except requests.exceptions.ConnectionError as error:
                raise docker.errors.DockerException("Error while fetching server API version") from error

    with pytest.raises(errors.RuntimeNotPermitted, match="may not be opened"):
        connect()
