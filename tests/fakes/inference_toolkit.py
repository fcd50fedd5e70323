"""What Hugging Face's inference toolkit makes of a model repo with a `handler.py`, on 127.0.0.1.

    with Serving(folder) as server:
        httpx2.post(server.url, json={"inputs": {"history": []}})

    python -m tests.fakes.inference_toolkit FOLDER PORT        # a process of its own, for benchmarks

The toolkit itself (github.com/huggingface/huggingface-inference-toolkit) is not on PyPI; this does what its web service
does: it imports `handler.py` by its path with the folder on `sys.path`, makes one `EndpointHandler(folder)`, hands it
the JSON body of a POST to `/` or `/predict` in a thread, one at a time (`threads`), and answers whatever is raised with
status 400 and `{"error": message}`.
"""

import importlib.util
import shutil
import socket
import sys
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


CODE_DIR = Path(__file__).resolve().parents[2] / "modeling_rdrec"


def stage_repo(checkpoint: Path, folder: Path) -> Path:
    """The files of a checkpoint and today's code, as they lie side by side in a pushed repo."""
    folder.mkdir(parents=True)
    code = [path for path in CODE_DIR.glob("*.py") if path.name != "__init__.py"]
    for path in [*checkpoint.iterdir(), *code]:
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def load_handler(folder: Path):
    """The handler of a repo's folder."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
        return module.EndpointHandler(str(folder))
    finally:
        sys.path.remove(str(folder))


def make_app(folder: Path, threads: int = 1) -> Starlette:
    handler = load_handler(folder)
    at_once = anyio.Semaphore(threads)

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("Ok")

    async def predict(request: Request) -> Response:
        try:
            body = orjson.loads(await request.body())
            if "inputs" not in body:
                raise ValueError("the body has no key inputs")
            async with at_once:
                answer, status = await anyio.to_thread.run_sync(handler, body), 200
        except Exception as error:
            answer, status = {"error": str(error)}, 400
        return Response(orjson.dumps(answer), status, media_type="application/json")

    get, post = {"methods": ["GET"]}, {"methods": ["POST"]}
    return Starlette(
        routes=[
            Route("/", health, **get),
            Route("/health", health, **get),
            Route("/", predict, **post),
            Route("/predict", predict, **post),
        ]
    )


class Serving:
    """The server in a thread of this process; ends with its `with`."""

    def __init__(self, folder: Path, threads: int = 1):
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(make_app(folder, threads), log_level="error"))

    def __enter__(self) -> "Serving":
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.should_exit = True
        self._thread.join()


if __name__ == "__main__":
    uvicorn.run(make_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="error", backlog=512)
