"""The command line.  Each verb imports what it needs when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from paribus._version import __version__

OK, FAILED, WRONG, INTERRUPTED, STOPPED = 0, 1, 2, 130, 75


def _study(p: argparse.ArgumentParser) -> None:
    p.add_argument("study", help="a study file, or the name of a shipped study")
    p.add_argument("--scale", help="name@scale is a study of its own (smoke, small, paper)")
    p.add_argument("--seeds", type=int, metavar="N", help="seeds 1 … N instead of the study's own")
    p.add_argument("--home", help="where results live (default: $PARIBUS_HOME, else runs/)")


def _json(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="plain data")


def _device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", help="cpu, cuda:0 … or mps (default: what this machine has)")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="paribus",
        description="Controlled ablation studies of Transformers: all else equal.",
        epilog="exit codes: 0 all done, 1 some trial failed, 2 the request was wrong, "
        "75 stopped with more to do, 130 interrupted",
    )
    top.add_argument("--version", action="version", version=f"paribus {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, *options: Callable[[Any], None]) -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=text, description=text)
        for option in options:
            option(p)
        return p

    p = verb("new", "write a study file to start from")
    p.add_argument("path", help="the file to write; an existing one is left alone")
    p.add_argument("--from", dest="origin", default="quickstart", help="a shipped study")

    p = verb("check", "preflight: two steps, a checkpoint and every condition", _study, _json)
    _device(p)
    verb("plan", "what would run, and what it costs; writes nothing", _study, _json, _device)

    p = verb("try", "one variant in the foreground; never in a report", _study, _device)
    p.add_argument("name", help="a variant's or trial's name")
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="patches",
                   help="JSON values; a part as '{\"part\": \"alibi\"}'")  # fmt: skip
    p.add_argument("--steps", type=int, help="fewer steps")
    p.add_argument("--pdb", action="store_true", help="a debugger where it breaks")

    p = verb("run", "train and evaluate what is missing, then report", _study, _device)
    p.add_argument("--workers", type=int, help="processes (default: cores, or one a GPU)")
    p.add_argument("--gpus", help="device numbers, such as 0,1")
    p.add_argument("--stack", type=int, help="trials of one shape trained together")
    p.add_argument("--only", action="append", default=[], metavar="FACTOR=LEVEL,…")
    p.add_argument("--retry", action="store_true", help="again what failed or ran out of memory")
    p.add_argument("--deterministic", action="store_true", help="bit-equal resume on a GPU too")
    p.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    p.add_argument("--checkpoint-every", type=float, default=30.0, metavar="SECONDS")
    p.add_argument("--checkpoint-steps", type=int, help=argparse.SUPPRESS)
    p.add_argument("--no-check", action="store_true", help="skip the preflight")
    p.add_argument("--lang", choices=("en", "zh"), default="en", help="what the report shows first")

    verb("status", "the grid: what is done, what runs, what failed", _study, _json)
    p = verb("show", "attempts, log and spec of one trial", _study, _json)
    p.add_argument("name", help="a trial's name or id")
    p = verb("results", "records as a table", _study)
    p.add_argument("--format", choices=("text", "csv", "json"), help="default: by the file's name")
    p.add_argument("-o", "--output", help="a file; an existing one is replaced")
    p.add_argument("--wide", action="store_true", help="one column a metric (the study's columns=)")
    verb("verdicts", "hypotheses: supported, refuted or inconclusive", _study, _json)
    p = verb("report", "write the report", _study)
    p.add_argument("-o", "--output", help="a file (default: the study's folder)")
    p.add_argument("--lang", choices=("en", "zh"), default="en")
    p = verb("list", "shipped studies and parts", _json)
    p.add_argument("part", nargs="?", help="one part, such as tasks.lm: its fields and metrics")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; a user's mistake is one line on standard error and exit code 2."""
    options = parser().parse_args(arguments)
    from paribus import verbs
    from paribus.errors import ParibusError, SpecError

    try:
        return int(getattr(verbs, f"do_{options.verb}")(options))
    except SpecError as error:
        print(f"paribus: {error}", file=sys.stderr)
        return WRONG
    except ParibusError as error:
        print(f"paribus: {error}", file=sys.stderr)
        return WRONG if type(error) is ParibusError else FAILED
    except BrokenPipeError:
        return OK
    except OSError as error:
        print(f"paribus: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def emit(data: Any) -> None:
    """Plain data on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
