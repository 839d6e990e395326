"""Asking replicas whether they are healthy: all at once, and never for longer than the limit in all.

What answers is a tenant's container: it may be silent, drip one byte a second, or send without end. None of that may
hold a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

LIMIT_S = 2.0


def healthy(urls: Mapping[str, str]) -> frozenset[str]:
    """Those names whose URL answers 2xx within LIMIT_S. Takes no longer than that, however many there are."""
    return asyncio.run(_healthy(urls))


async def _healthy(urls: Mapping[str, str]) -> frozenset[str]:
    # Replicas speak plain HTTP: reading the machine's certificates for nothing would cost more than the probe.
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=LIMIT_S) as client:  # noqa: S501
        answers = await asyncio.gather(*(_answers(client, url) for url in urls.values()))
    return frozenset(name for name, good in zip(urls, answers, strict=True) if good)


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    """Only the status is read. Redirects are not followed: a replica must not send us elsewhere."""
    try:
        async with asyncio.timeout(LIMIT_S), client.stream("GET", url, follow_redirects=False) as response:
            return response.is_success
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        return False
