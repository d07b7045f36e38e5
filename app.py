"""A web page that restores pictures: drop one, move the knob, and see which pixels take the heavy network.

python app.py                 then open http://127.0.0.1:7860 in a browser on this machine
python app.py --host 0.0.0.0  lets other machines in; visitors are answered in turn

Programs can call it too, by gradio_client; docs/upscaling.md says how.
It needs further packages: pip install -r requirements-app.txt. It offers the PCSR models under save/ that have a
classifier, or if there is none those of this project. The page takes nothing from other servers and sends nothing to
any; the files of visitors are deleted within hours, and all of them when the server ends.
"""

import argparse
import importlib
import os
import signal
import sys
import tempfile
from pathlib import Path

from inference.options import add_precision_option
from models.checkpoint import SAVE, SHIPPED
from utils.cli import Parser, run
from utils.device import add_device_option, pick_device
from utils.errors import InputError
from web.engines import load_engines
from web.session import Service

LIMIT = 1e12  # the largest limit that can be set, more than any machine holds


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    about = "most pixels that a picture which is sent, or its result, may have (default: 100e6)"
    parser.add_argument("--max_pixels", type=float, default=100e6, help=about)
    about = "most megabytes that a file which is sent may have (default: 200)"
    parser.add_argument("--max_mb", type=float, default=200, help=about)
    add_device_option(parser)
    add_precision_option(parser)
    args = parser.parse_args()
    for name in ("max_pixels", "max_mb"):
        if not 0 < getattr(args, name) <= LIMIT:
            raise InputError(f"--{name} {getattr(args, name):g}: must be a number above 0 and at most {LIMIT:g}")
    if ":" in args.host:
        raise InputError(f"--host {args.host}: give a name, or an address with dots")
    if not 1 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: must lie between 1 and 65535")
    return args


def main() -> None:
    args = parse_options()
    engines = load_engines([SAVE, SHIPPED / SAVE], pick_device(args.device), args.precision)
    for ending in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # SIGHUP: the terminal is closed
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(ending, signal.default_int_handler)  # as Ctrl-C does, so that the files go
    try:
        with tempfile.TemporaryDirectory(prefix="pcsr-", ignore_cleanup_errors=True) as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # read as the page is built
            os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # it asks itself whether it is up, and nobody else
            try:
                page = importlib.import_module("web.page")
            except ModuleNotFoundError as error:
                raise InputError(f"the page needs {error.name}: pip install -r requirements-app.txt") from None
            service = Service(engines, int(args.max_pixels), Path(folder).resolve())
            page.serve(service, args.host, args.port, args.max_mb)
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(128 + signal.SIGINT)  # Python's own way out aborts in a computation that is still running


if __name__ == "__main__":
    run(main)
