"""What somebody does with a browser or a program: the console's sign-in and the management API, nothing else.

Web may be killed at any moment: a call that got no answer is made again, as a person would.
"""

from __future__ import annotations

import re
import time
from typing import Any

import httpx

Json = dict[str, Any]
PATIENCE_S = 45.0


class Refused(Exception):
    """The platform answered, and said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text[:300]}")
        self.status = status


class Person:
    """An editor's program: its tokens come from the platform, and are fetched anew when they are refused."""

    def __init__(self, console: str, login: tuple[str, str]) -> None:
        self.console = console
        self._client = httpx.Client(base_url=console, timeout=10, trust_env=False)
        self._account = self._make_account(*login)
        self._token = ""

    def close(self) -> None:
        """No more calls."""
        self._client.close()

    def token(self) -> str:
        """A fresh access token."""
        return str(
            self._until_answered(
                lambda: self._client.post(
                    "/accounts-api/v2/auth/token",
                    auth=self._account,
                    json={"grant_type": "client_credentials"},
                )
            )["access_token"]
        )

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """A call of the management API; its answer. Raises Refused."""
        for _ in range(3):
            self._token = self._token or self.token()
            try:
                return self._until_answered(lambda: self._request(method, path, body))
            except Refused as refused:
                if refused.status != 401:
                    raise
                self._token = ""  # the clock has jumped, or half an hour is over
        raise Refused(401, "again and again")

    def find(self, kind: str, name: str) -> Json | None:
        """The endpoint or model of that name."""
        rows = self.call("GET", f"/api/v1/{kind}/?search={name}")["results"]
        return next((row for row in rows if row["name"] == name), None)

    def create(self, kind: str, body: Json) -> Json:
        """Create it once, also when the answer to the first try was lost."""
        try:
            return self.call("POST", f"/api/v1/{kind}/", body)
        except Refused as refused:
            found = self.find(kind, body["name"]) if refused.status == 400 else None
            if found is None:
                raise
            return found

    def _request(self, method: str, path: str, body: Json | None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._client.request(method, path, json=body, headers=headers)

    def _until_answered(self, ask: Any) -> Json:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = ask()
                if answer.status_code < 500:
                    break
                problem: object = f"{answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                problem = error
            assert time.monotonic() < deadline, f"no answer within {PATIENCE_S} s: {problem}"
            time.sleep(0.25)
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.text)
        return dict(answer.json()) if answer.content else {}

    def _make_account(self, email: str, password: str) -> tuple[str, str]:
        """Sign in as the first admin, and make a service account that may edit and invoke."""
        with httpx.Client(
            base_url=self.console, timeout=20, trust_env=False, follow_redirects=True
        ) as browser:
            page = browser.get("/accounts/login/").raise_for_status().text
            hidden = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
            assert hidden, "the sign-in page has no form"
            form = {"login": email, "password": password, "csrfmiddlewaretoken": hidden[1]}
            browser.post("/accounts/login/", data=form, headers={"Referer": self.console}).raise_for_status()
            answer = browser.post(
                "/api/v1/service-accounts/",
                json={"name": "faults", "roles": ["aiplatform.editor"]},
                headers={"X-CSRFToken": browser.cookies["berth_csrf"], "Referer": self.console},
            )
            assert answer.status_code == 201, answer.text
            made = answer.json()
        return made["client_id"], made["client_secret"]
