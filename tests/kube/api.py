"""The API server, asked by HTTP: what the stand-ins and the checks need of it."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx

Object = dict[str, Any]
TIMEOUT_S = 30.0


class ApiError(RuntimeError):
    """The API server refused."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Api:
    """Paths are the API's own, such as `/api/v1/namespaces`; `httpx.HTTPError` where it does not answer."""

    def __init__(self, url: str, token: str, authority: str) -> None:
        context = ssl.create_default_context(cafile=authority)
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, verify=context, timeout=TIMEOUT_S)

    def get(self, path: str) -> Object:
        return self._ask("GET", path)

    def find(self, path: str) -> Object | None:
        """Like `get`, but None where there is nothing."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def items(self, path: str) -> list[Object]:
        found: list[Object] = self.get(path)["items"]
        return found

    def create(self, path: str, thing: Object) -> Object:
        return self._ask("POST", path, thing)

    def patch(self, path: str, change: Object) -> Object:
        """A merge patch."""
        return self._ask("PATCH", path, change, "application/merge-patch+json")

    def delete(self, path: str, options: Object | None = None) -> None:
        """Delete; nothing happens if it is gone."""
        try:
            self._ask("DELETE", path, options)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def text(self, path: str) -> str:
        """What a path such as `/readyz` answers."""
        answer = self._client.get(path)
        if answer.is_error:
            raise ApiError(answer.status_code, answer.text)
        return answer.text

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        content = None if body is None else json.dumps(body)
        answer = self._client.request(method, path, content=content, headers={"Content-Type": kind})
        if answer.is_error:
            raise ApiError(answer.status_code, answer.text[:1000])
        found: Object = answer.json()
        return found
