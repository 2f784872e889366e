"""Chats, and request lines of the OpenAI batch format.

A line is {"custom_id", "method": "POST", "url", "body"}. What a body asks for beside its messages
is kept as the document's `request`: the URL, the model that it names, sampling, and the schema of
its answer. What cannot be done here (tools, images, several answers, streams) is an error row that
says so; nothing is passed over silently.
"""

from __future__ import annotations

from typing import Any

from pipelines.batch.documents.document import Document
from pipelines.batch.settings import Task
from pipelines.batch.text import DocumentError, check_text, not_empty

MEDIA_TYPE = "application/jsonl"
TASKS: dict[str, Task] = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/embeddings": "embed",
}
_ROLES = {"system", "user", "assistant"}
_SAMPLING = {  # of a body: as the job's own sampling names it, and what the value must be
    "max_tokens": ("max_tokens", int),
    "max_completion_tokens": ("max_tokens", int),
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "seed": ("seed", int),
    "stop": ("stop", str),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
}
_READ = {"model", "messages", "prompt", "input", "response_format", *_SAMPLING}
# Asking for what happens anyway is no request.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "echo": (False,),
    "best_of": (1,),
    "encoding_format": ("float",),
    "tools": ([],),
}
_IGNORED = {"user", "metadata", "store", "service_tier"}  # about the service, not the answer


def request_document(value: dict[str, Any], place: tuple[str, str, int], sha256: str) -> Document:
    """The document of a request line; raises DocumentError only for one without a custom_id."""
    identity, (_, path, offset) = value.get("custom_id"), place
    if not isinstance(identity, str) or not identity:
        raise DocumentError("invalid_line", "no text under 'custom_id'")
    try:
        identity = check_text(identity)
        fields, request = _request(value)
    except DocumentError as error:
        return Document(identity, path, offset, sha256, error=error, media_type=MEDIA_TYPE)
    return Document(identity, path, offset, sha256, fields, media_type=MEDIA_TYPE, request=request)


def chat_fields(messages: object, column: str) -> dict[str, Any]:
    """A chat as the fields of a document: `messages`, and all that is said as `text`."""
    if not isinstance(messages, list) or not messages:
        raise DocumentError("missing_field", f"no list of messages under {column!r}")
    chat = [_message(message) for message in messages]
    return {"messages": chat, "text": not_empty("\n".join(m["content"] for m in chat))}


def _message(message: object) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DocumentError("invalid_line", "a message that is not an object")
    role, content = message.get("role"), message.get("content")
    role = "system" if role == "developer" else role
    if role not in _ROLES:
        raise DocumentError("unsupported_request", f"a message with the role {role!r}")
    if message.get("tool_calls") or message.get("function_call"):
        raise DocumentError("unsupported_request", "a message that calls a tool")
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise DocumentError("missing_field", "a message without content")
    return {"role": str(role), "content": check_text(content)}


def _part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise DocumentError("unsupported_request", f"content of the type {kind!r}: only text is read")


def _request(value: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    url, body = value.get("url"), value.get("body")
    if value.get("method", "POST") != "POST" or url not in TASKS:
        fact = f"{value.get('method')} {url}: only POST to {', '.join(TASKS)}"
        raise DocumentError("unsupported_request", fact)
    if not isinstance(body, dict):
        raise DocumentError("invalid_line", "no object under 'body'")
    for key, given in body.items():
        if given is None or key in _READ or key in _IGNORED or given in _HARMLESS.get(key, ()):
            continue
        raise DocumentError("unsupported_request", f"{key!r} in the body")
    request = {"url": url, "sampling": _sampling(body), "schema": _schema(body)}
    if isinstance(model := body.get("model"), str):
        request["model"] = model
    if url == "/v1/chat/completions":
        return chat_fields(body.get("messages"), "body.messages"), request
    key = "prompt" if url == "/v1/completions" else "input"
    text = body.get(key)
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise DocumentError("unsupported_request", f"body.{key} that is not one text")
    return {"prompt": not_empty(check_text(text)), "text": text}, request


def _sampling(body: dict[str, Any]) -> dict[str, Any]:
    """What a body says of sampling, by the names of `Sampling`."""
    found: dict[str, Any] = {}
    for key, (name, kind) in _SAMPLING.items():
        value = body.get(key)
        if value is None:
            continue
        if kind is str:
            value = [value] if isinstance(value, str) else value
        elif isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            raise DocumentError("unsupported_request", f"body.{key}: {value!r}")
        found[name] = value
    return found


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that a body's response_format asks for."""
    wanted = body.get("response_format") or {"type": "text"}
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    described = wanted.get("json_schema") if kind == "json_schema" else None
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise DocumentError("unsupported_request", f"a response_format of the type {kind!r}")
    return schema
