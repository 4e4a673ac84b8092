"""`embodied serve MODEL [--prompt FILE] [--host ADDRESS --token-file FILE]`: a policy behind a WebSocket."""

import dataclasses
import gc
import logging
from pathlib import Path
from typing import Annotated

import tyro

from embodied import promptfile
from embodied.deploy.bundle import MANIFEST
from embodied.deploy.bundle import load as load_bundle
from embodied.policy import Prompted
from embodied.serve.access import is_loopback, read_token
from embodied.serve.bundle import BundleServable
from embodied.serve.policy import PolicyServable
from embodied.serve.servable import Servable
from embodied.serve.server import ServeConfig, Server, serve
from embodied.types import InputError
from experiments.models import resolve


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Serves a policy in the message form of openpi until it is interrupted. docs/serving.md shows clients."""

    model: tyro.conf.Positional[str]  # shipped model, run directory or bundle
    prompt: Annotated[
        tuple[Path, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(help="prompt file, which clients ask for by its name without .json; the first is the default"),
    ] = ()
    host: str = "127.0.0.1"  # address to listen on; any that other machines reach needs --token-file
    port: int = 8000  # 0 = any that is free
    token_file: Path | None = None  # with mode 0600; clients send what it holds as their API key
    connections: int = 64  # at the same time


def main(arguments: list[str]) -> None:
    """Loads, compiles, and serves."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied serve")
    token = None if chosen.token_file is None else read_token(chosen.token_file)
    config = ServeConfig(chosen.host, chosen.port, token, chosen.connections)
    logging.basicConfig(format="%(asctime)s %(message)s")
    servable = load(chosen.model, chosen.prompt)
    gc.freeze()  # what is loaded stays; a collection that looks through it would hold all clients up for 0.1 s
    serve(servable, config, announce)
    print("stopped")


def load(model: str, files: tuple[Path, ...]) -> Servable:
    """A bundle with its own prompts, or a policy with these, each known by the name of its file.

    Raises InputError where two files have one name, or a bundle is given any.
    """
    if (Path(model) / MANIFEST).exists():
        if files:
            raise InputError("prompt: a bundle brings its own prompts; leave --prompt out")
        return BundleServable(load_bundle(Path(model)))
    names = [file.stem for file in files]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"prompt: two files are called '{name}', by which clients ask for them; rename one")
    policy, env = resolve(model)
    prompts: dict[str, Prompted] = {file.stem: promptfile.load(file, policy, env)[0] for file in files}
    return PolicyServable(policy, prompts, env.spec.control_dt)


def announce(server: Server) -> None:
    """Nothing; says where the server listens and what it follows."""
    host = f"[{server.config.host}]" if ":" in server.config.host else server.config.host
    about = server.servable.metadata
    print(f"{about['world']}, {about['agent']} on ws://{host}:{server.port}   (Ctrl-C stops)", flush=True)
    if about["latent"]:
        print(f"prompts: {', '.join(about['prompts']) or 'none; a client must send a latent z'}", flush=True)
    if not is_loopback(server.config.host):
        print(
            "the token crosses the network in the clear; put TLS in front, for example: "
            f"caddy reverse-proxy --from NAME --to 127.0.0.1:{server.port}  (and serve on 127.0.0.1)",
            flush=True,
        )
