"""The port that callers reach: whether it is free, when it answers, and the environment of a fast HTTP proxy."""

import errno
import socket
import time
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from mlray.errors import PortInUse, ServingFailed

_ANY = "0.0.0.0"


def serve_environment(stats_port: int = 8404, metrics_port: int = 9101) -> dict[str, str]:
    """What to set before the cluster starts, so that HAProxy takes Ray Serve's requests instead of its Python proxy.

    Off unless these are set: HAProxy also opens its statistics on two more ports of every address, without a password,
    the same for every cluster of a machine (a second one needs others); and Serve gives it up where it starts slowly.
    Its files lie under /tmp/haproxy-serve, in a folder per node.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def check_port(host: str, port: int) -> None:
    """PortInUse where something listens on the port, or the host is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise PortInUse(_refusal(host, port, error)) from error


def await_free(host: str, port: int, seconds: float = 10.0) -> None:
    """Returns when nothing listens there any more; PortInUse after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check_port(host, port)
        except PortInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is held by another process ('ss -ltnp sport = :{port}' shows which); end that, or choose "
            "another port in [serving]"
        )
    return f"cannot listen on {host}:{port} ({error}); choose another host or port in [serving]"


def url_of(host: str, port: int) -> str:
    """How a caller on this machine reaches it."""
    reachable = {_ANY: "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def await_ready(url: str, seconds: float) -> None:
    """Returns when `url`/readyz answers 200; ServingFailed, with its last answer, after so many seconds."""
    deadline = time.monotonic() + seconds
    while (problem := _not_ready(url)) is not None:
        if time.monotonic() > deadline:
            raise ServingFailed(f"{url}/readyz is not ready after {seconds:.0f} s: {problem}")
        time.sleep(0.05)


def _not_ready(url: str) -> str | None:
    """What stands against it; None if it is ready."""
    try:
        with urlopen(f"{url}/readyz", timeout=10):
            return None
    except HTTPError as error:
        with error:
            return f"{error.code} {error.read(2000).decode(errors='replace')}"
    except (URLError, OSError) as error:
        return str(error)
