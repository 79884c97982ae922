"""What uvicorn serves for serve.py: the pid of the worker, and the sum of the bytes that came."""

import os
from typing import Any


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    total, more = 0, True
    while more:
        message = await receive()
        total += sum(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {total}".encode()})
