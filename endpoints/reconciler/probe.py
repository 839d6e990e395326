"""Asking replicas whether they are healthy: all at once, and never for longer than the limit in all.

What answers is a tenant's container: it may be silent, drip one byte a second, or send without end. None of that may
hold a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from runtimes.contract import Address

LIMIT_S = 2.0


def healthy(urls: Mapping[str, str]) -> frozenset[str]:
    """Those names whose URL answers 2xx within LIMIT_S. Takes no longer than that, however many there are."""
    return asyncio.run(_healthy(urls))


async def _healthy(urls: Mapping[str, str]) -> frozenset[str]:
    # Replicas speak plain HTTP: reading the machine's certificates for nothing would cost more than the probe.
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=LIMIT_S) as client:  # noqa: S501
        answers = await asyncio.gather(*(_answers(client, url) for url in urls.values()))
    return frozenset(name for name, good in zip(urls, answers, strict=True) if good)


def status(url: str) -> int | None:
    """The HTTP status that it answers, None if it gives none within LIMIT_S."""
    return asyncio.run(_one_status(url))


def url(address: Address, path: str) -> str:
    """Where a replica is asked for `path`."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"http://{host}:{address.port}{path}"


async def _one_status(url: str) -> int | None:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=LIMIT_S) as client:  # noqa: S501
        return await _status(client, url)


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    status = await _status(client, url)
    return status is not None and 200 <= status < 300


async def _status(client: httpx.AsyncClient, url: str) -> int | None:
    """Only the status is read. Redirects are not followed: a replica must not send us elsewhere."""
    try:
        async with asyncio.timeout(LIMIT_S), client.stream("GET", url, follow_redirects=False) as response:
            return response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        return None
