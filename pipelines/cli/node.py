"""`python -m pipelines node`: the options of the command; it runs `pipelines.deployment.node.node`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.cli.options import add_anonymous, add_bundle
from pipelines.cli.predict import CONFIG, chosen_model, model_settings
from transforms.errors import DONE


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "node",
        help="segment CTs that come over the DICOM network",
        description="Listen as a DICOM storage SCP, segment each CT series that arrives, and send or write the result. "
        "Ends by Ctrl-C or SIGTERM; what is in the queue is done after the next start.",
        epilog="exit status: 0 ended by a signal, 2 an argument, the model or the address is not valid",
    )
    parser.set_defaults(function=run)
    add_bundle(parser, required=True)
    parser.add_argument(
        "--model",
        metavar="FILE[,FILE...]",
        help="trained model to use instead of the bundle's models/model.pt",
    )
    parser.add_argument(
        "--queue", metavar="DIR", required=True, help="folder for what came in and is not done yet"
    )
    parser.add_argument("--send", metavar="AET@HOST:PORT", help="send results there by C-STORE")
    parser.add_argument("-o", "--output", metavar="DIR", help="write results there, a folder for each series")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("seg", "rtstruct"),
        default=["seg"],
        help="results: DICOM SEG (default), DICOM RTSTRUCT",
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        metavar="NAME",
        help="irregularities of a DICOM series to accept: missing-slices, uneven-spacing (docs/dicom.md)",
    )
    add_anonymous(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    network = parser.add_argument_group("network")
    network.add_argument(
        "--aet", metavar="AET", default="SEGBUNDLES", help="AE title of this node (default: SEGBUNDLES)"
    )
    network.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, which only this machine reaches; 0.0.0.0 for all)",
    )
    network.add_argument("--port", type=_port, default=11112, help="port to listen at (default: 11112)")
    network.add_argument(
        "--accept",
        nargs="+",
        metavar="AET",
        help="AE titles that may call; required unless the host is this machine alone",
    )
    network.add_argument(
        "--retry",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="until a destination that is away is tried again, doubled each time up to 10 minutes (default: 5)",
    )
    network.add_argument(
        "--tls",
        nargs=3,
        metavar=("CERT", "KEY", "CA"),
        help="PEM files: encrypt associations in both directions; peers have to show a certificate signed by CA",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--silence",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="a series is whole after so long without a new image (default: 30)",
    )
    limits.add_argument(
        "--after-release",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="and so long after the association that sent it was released (default: 2)",
    )
    limits.add_argument(
        "--max-disk", type=_amount, default=20.0, metavar="GB", help="size of the queue (default: 20)"
    )
    limits.add_argument(
        "--max-instance", type=_amount, default=4.0, metavar="GB", help="size of one image (default: 4)"
    )
    limits.add_argument(
        "--max-associations", type=_count, default=10, metavar="N", help="at the same time (default: 10)"
    )
    limits.add_argument(
        "--max-pdu", type=_count, default=65536, metavar="BYTES", help="of a peer's messages (default: 65536)"
    )
    limits.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="of a peer's silence, after which its association ends (default: 60)",
    )


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run a node until it is told to stop, and return the exit status."""
    bundle, models = chosen_model(arguments, parser)
    if arguments.send is None and arguments.output is None:
        parser.error("name a destination for results: --send AET@HOST:PORT, -o DIR, or both")
    if arguments.output is not None and Path(arguments.output).is_file():
        parser.error(f"{arguments.output} is a file; give a folder to --output")
    if not arguments.accept and arguments.host not in ("127.0.0.1", "::1", "localhost"):
        parser.error(f"at {arguments.host} others can call; name those that may with --accept AET ...")

    import logging

    from pipelines.deployment.node.listener import Listener
    from pipelines.deployment.node.network import Destination, Limits, Tls, ae_title, pynetdicom
    from pipelines.deployment.node.node import Node
    from pipelines.deployment.node.queue import Queue
    from pipelines.deployment.node.sender import Sender
    from pipelines.deployment.node.worker import Worker
    from transforms.utils.files import require_folder

    pynetdicom()
    title = ae_title(arguments.aet)
    accept = [ae_title(name) for name in arguments.accept or ()]
    destination = Destination.of(arguments.send) if arguments.send is not None else None
    limits = Limits(
        arguments.max_associations, arguments.max_pdu, int(arguments.max_instance * 1e9), arguments.timeout
    )
    tls = Tls(*arguments.tls) if arguments.tls else None
    if tls is not None:
        tls.listening()
    if arguments.output is not None:
        require_folder(arguments.output, "the results", "choose another --output")
    settings = {
        **model_settings(arguments, bundle, models),
        "formats": arguments.format,
        "allow": arguments.allow,
        "anonymous": arguments.anonymous or None,
    }
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("pipelines.deployment.node").setLevel(logging.INFO)
    queue = Queue(arguments.queue, int(arguments.max_disk * 1e9), arguments.silence, arguments.after_release)
    node = Node(
        queue,
        Listener(queue, title, accept, limits, tls, quiet=arguments.anonymous),
        Worker(bundle.configs / CONFIG, settings),
        Sender(destination, title, limits, tls) if destination is not None else None,
        arguments.output,
        quiet=arguments.anonymous,
        first_wait=arguments.retry,
    )
    node.run(arguments.host, arguments.port)
    return DONE


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _amount(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not an amount above 0")
    return value
