"""The demo's last page: what was computed, and what to paste next."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Result:
    """What the page is filled with. similarities: [(sentence, measured, expected)] against `sentence`."""

    sentence: str
    similarities: tuple[tuple[str, float, float], ...]
    model: str
    endpoint_url: str
    client_id: str
    client_secret: str
    token_url: str
    console_url: str
    login: str


def page(result: Result, terminal: Terminal) -> str:
    """The whole page."""
    rows = ["", f'  "{result.sentence}"']
    for sentence, found, expected in result.similarities:
        rows.append(f'    {terminal.paint(f"{found:.3f}", "1;32")}  "{sentence}"   (expected {expected:.3f})')
    rows += [
        "",
        f"  endpoint URL    {result.endpoint_url}",
        f"  client_id       {result.client_id}",
        f"  client_secret   {result.client_secret}",
        f"  console         {result.console_url}",
        f"  login           {result.login}",
        "",
        terminal.paint("  # A token, then the model:", "90"),
        curl(result),
        "",
    ]
    return "\n".join(rows) + "\n"


def curl(result: Result) -> str:
    """The two calls, ready to paste into a shell; needs nothing but curl and sed."""
    return "\n".join(
        [
            f"  TOKEN=$(curl --silent --location '{result.token_url}' \\",
            f"    --user '{result.client_id}:{result.client_secret}' \\",
            "    --header 'Content-Type: application/json' \\",
            """    --data '{"grant_type":"client_credentials","scope":"email"}' \\""",
            """    | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')""",
            "",
            f"  curl '{result.endpoint_url}/v1/embeddings' \\",
            '    --header "Authorization: Bearer $TOKEN" \\',
            "    --header 'Content-Type: application/json' \\",
            f"""    --data '{{"model":"{result.model}","input":"Hello from Berth"}}'""",
        ]
    )
