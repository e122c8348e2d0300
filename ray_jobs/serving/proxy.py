"""What stands before the proxy of Ray Serve, in whose environment `VARIABLE` is `CALLBACK`.

The same guard stands before the application (`recsys.serving.web`). Here, a slow body has not even one of the replicas'
places yet, and headers are looked at before the proxy reads them.
"""

from starlette.middleware import Middleware

from recsys.serving.guard import Guard

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "ray_jobs.serving.proxy:middlewares"


def middlewares() -> list[Middleware]:
    return [Middleware(Guard)]
