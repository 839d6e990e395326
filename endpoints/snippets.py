"""Ready-to-run calls of one endpoint, for the "Use it" tab. Pure text: tests run them as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from textwrap import dedent, indent

TEXT = "The weather is lovely today."
PROMPT = "Say hello in one sentence."


@dataclass(frozen=True, slots=True)
class Target:
    """What the calls are about. task: llm, embedding or other."""

    url: str
    token_url: str
    model: str
    task: str
    private: bool


@dataclass(frozen=True, slots=True)
class Snippet:
    """One language's calls. needs: what to install first, "" for nothing."""

    key: str
    label: str
    code: str
    needs: str = ""


def snippets(target: Target) -> tuple[Snippet, ...]:
    """The same call in each language."""
    return (
        Snippet("curl", "curl", _curl(target)),
        Snippet("python", "Python", _python(target), "pip install openai httpx"),
        Snippet("javascript", "JavaScript", _javascript(target)),
    )


def _request(target: Target) -> str:
    """The request's JSON, for the shell: in single quotes, whatever the model is called."""
    if target.task == "embedding":
        body: dict[str, object] = {"model": target.model, "input": [TEXT]}
    else:
        body = {
            "model": target.model,
            "stream": True,
            "messages": [{"role": "user", "content": PROMPT}],
        }
    lines = ",\n".join(
        f"    {_literal(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in body.items()
    )
    return "'{\n" + lines.replace("'", "'\\''") + "\n  }'"


def _literal(text: str) -> str:
    """A string literal of Python and of JavaScript alike."""
    return json.dumps(text, ensure_ascii=False)


def _path(target: Target) -> str:
    return {"embedding": "/v1/embeddings", "llm": "/v1/chat/completions"}.get(target.task, "/")


def _curl(target: Target) -> str:
    token = ""
    header = ""
    if target.private:
        token = dedent(f"""\
            # 1. A token for 30 minutes, from the service account's credentials
            TOKEN=$(curl --silent --fail --location "{target.token_url}" \\
              --user "$CLIENT_ID:$CLIENT_SECRET" \\
              --header 'Content-Type: application/json' \\
              --data '{{"grant_type":"client_credentials","scope":"email"}}' \\
              | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')

            # 2. The call
        """)
        header = '  --header "Authorization: Bearer $TOKEN" \\\n'
    if target.task == "other":
        return (
            token
            + f'curl --fail-with-body "{target.url}/"'
            + (" \\\n" + header.rstrip("\\\n ") if header else "")
        )
    stream = "--no-buffer " if target.task == "llm" else ""
    return (
        token
        + f'curl {stream}--fail-with-body \\\n  "{target.url}{_path(target)}" \\\n'
        + header
        + "  --header 'Content-Type: application/json' \\\n"
        + f"  --data {_request(target)}"
    )


def _python(target: Target) -> str:
    fetch = ""
    key = '"none"'
    imports = "from openai import OpenAI"
    if target.private:
        imports = "import os\n\nimport httpx\nfrom openai import OpenAI"
        key = "token"
        fetch = dedent(f"""\
            token = httpx.post(
                "{target.token_url}",
                auth=(os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]),
                json={{"grant_type": "client_credentials", "scope": "email"}},
            ).raise_for_status().json()["access_token"]
        """)
        fetch += "\n" if target.task == "other" else ""
    if target.task == "other":
        return _python_plain(target, fetch)
    client = f'client = OpenAI(base_url="{target.url}/v1", api_key={key})\n'
    if target.task == "embedding":
        call = dedent(f"""\
            answer = client.embeddings.create(
                model={_literal(target.model)},
                input=["{TEXT}"],
            )
            print(answer.data[0].embedding[:5])""")
    else:
        call = dedent(f"""\
            stream = client.chat.completions.create(
                model={_literal(target.model)},
                messages=[{{"role": "user", "content": "{PROMPT}"}}],
                stream=True,
            )
            for part in stream:
                if part.choices:
                    print(part.choices[0].delta.content or "", end="", flush=True)""")
    return f"{imports}\n\n{fetch}{client}\n{call}"


def _python_plain(target: Target, fetch: str) -> str:
    headers = ', headers={"Authorization": f"Bearer {token}"}' if target.private else ""
    imports = "import os\n\nimport httpx" if target.private else "import httpx"
    return f'{imports}\n\n{fetch}answer = httpx.get("{target.url}/"{headers})\nprint(answer.status_code, answer.text)'


def _javascript(target: Target) -> str:
    fetch = ""
    auth = ""
    if target.private:
        auth = "Authorization: `Bearer ${token}`"
        fetch = dedent(f"""\
            const credentials = btoa(`${{process.env.CLIENT_ID}}:${{process.env.CLIENT_SECRET}}`);
            const signIn = await fetch("{target.token_url}", {{
              method: "POST",
              headers: {{ Authorization: `Basic ${{credentials}}`, "Content-Type": "application/json" }},
              body: JSON.stringify({{ grant_type: "client_credentials", scope: "email" }}),
            }});
            const {{ access_token: token }} = await signIn.json();

        """)
    if target.task == "other":
        headers = f", {{ headers: {{ {auth} }} }}" if auth else ""
        call = f'const answer = await fetch("{target.url}/"{headers});'
        return f"{fetch}{call}\nconsole.log(answer.status, await answer.text());"
    headers = ", ".join(part for part in (auth, '"Content-Type": "application/json"') if part)
    call = dedent(f"""\
        const answer = await fetch("{target.url}{_path(target)}", {{
          method: "POST",
          headers: {{ {headers} }},
          body: JSON.stringify({_js_body(target)}),
        }});
    """)
    if target.task == "embedding":
        return fetch + call + "console.log((await answer.json()).data[0].embedding.slice(0, 5));"
    return (
        fetch
        + call
        + "for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {\n"
        + indent("process.stdout.write(chunk); // server-sent events, one JSON object a line", "  ")
        + "\n}"
    )


def _js_body(target: Target) -> str:
    if target.task == "embedding":
        return f'{{ model: {_literal(target.model)}, input: ["{TEXT}"] }}'
    return (
        f"{{ model: {_literal(target.model)}, stream: true, "
        f'messages: [{{ role: "user", content: "{PROMPT}" }}] }}'
    )
