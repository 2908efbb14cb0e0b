"""The command line.  Each verb imports what it needs when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from paribus._version import __version__

OK, FAILED, WRONG, INTERRUPTED, STOPPED = 0, 1, 2, 130, 75
WHERE = {
    "status": "looking",
    "show": "looking",
    "stop": "upkeep",
    "gc": "upkeep",
    "doctor": "doctor",
    "diff": "comparing",
    "evaluate": "evaluating",
    "bundle": "sharing",
    "verify": "sharing",
    "import": "sharing",
    "notebook": "notes",
    "note": "notes",
}
"""The modules of the verbs that are not in `verbs`."""
FORMATS = ("text", "csv", "json", "markdown", "latex", "parquet", "recipe")


def _study(p: argparse.ArgumentParser) -> None:
    p.add_argument("study", help="a study file, or the name of a shipped study")
    p.add_argument("--scale", help="name@scale is a study of its own (smoke, small, paper)")
    p.add_argument("--seeds", type=int, metavar="N", help="seeds 1 … N instead of the study's own")
    p.add_argument("--home", help="where results live (default: $PARIBUS_HOME, else runs/)")


def _json(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="plain data")


def _device(p: argparse._ActionsContainer) -> None:
    p.add_argument("--device", help="cpu, cuda:0 … or mps (default: what this machine has)")


def _where(p: argparse.ArgumentParser) -> None:
    where = p.add_argument_group("where")
    _device(where)
    where.add_argument("--workers", type=int, help="processes (default: cores, or one a GPU)")
    where.add_argument("--threads", type=int, default=1, help="CPU threads a worker (default 1)")
    where.add_argument("--gpus", help="numbers, such as 0,1; auto:2 takes two that are free")
    where.add_argument("--per-gpu", type=int, default=1, metavar="N", help="workers a GPU")
    where.add_argument("--gpus-per-trial", "--ranks-per-trial", type=int, default=1, metavar="N",
                       dest="per_trial",
                       help="GPUs (on the CPU: processes) that train one trial")  # fmt: skip
    where.add_argument("--gpu-memory", metavar="40%", help="at most this share of each GPU")
    where.add_argument("--share-gpus", action="store_true",
                       help="start although another process uses the GPU")  # fmt: skip
    where.add_argument(
        "--stack",
        type=int,
        help="trials of one shape trained together; by itself as many as pay, at most 64",
    )
    where.add_argument("--no-trunks", action="store_true", help="train shared beginnings apart")


def _run(p: argparse.ArgumentParser) -> None:
    which = p.add_argument_group("which cells")
    which.add_argument("--only", action="append", default=[], metavar="FACTOR=LEVEL,…")
    which.add_argument("--limit", type=int, metavar="N", help="at most N unfinished trials")
    which.add_argument("--retry", nargs="?", const="all", metavar="STATE,…",
                       help="again what is failed, oom, lost, refused (default: all)")  # fmt: skip
    which.add_argument("--force", action="store_true", help="the chosen cells anew")
    which.add_argument("--yes", action="store_true", help="do not ask before --force")
    which.add_argument("--dry-run", action="store_true", help="plan")

    _where(p)
    when = p.add_argument_group("when to stop")
    when.add_argument("--until", metavar="3h50m|14:30", help="stop cleanly after, or at; exit 75")
    when.add_argument("--stop-after", metavar="9m", help="stop cleanly after; exit 75")
    when.add_argument("--fail-fast", action="store_true",
                      help="stop when the same error came in two trials")  # fmt: skip
    when.add_argument("--timeout", metavar="30m", help="a trial without a step for so long fails")
    when.add_argument("--detach", action="store_true", help="go on without this terminal")
    when.add_argument("--on-event", metavar="CMD",
                      help="run CMD with $PARIBUS_EVENT done, failed or stuck")  # fmt: skip

    how = p.add_argument_group("how")
    how.add_argument("--deterministic", action="store_true", help="bit-equal resume on a GPU too")
    how.add_argument("--compile", choices=("auto", "on", "off"), default="auto",
                     help="auto: on a GPU; never where a resume is bit-equal (CPU)")  # fmt: skip
    how.add_argument("--checkpoint-every", type=float, default=30.0, metavar="SECONDS",
                     help="30; more if they took over a twentieth of the time")  # fmt: skip
    how.add_argument("--checkpoint-steps", type=int, help=argparse.SUPPRESS)
    how.add_argument("--no-check", action="store_true", help="skip the preflight")
    how.add_argument("--output", metavar="DIR",
                     help="tables, verdicts and figures as plain files too, here")  # fmt: skip
    how.add_argument("--lang", choices=("en", "zh"), default="en",
                     help="what the report shows first")  # fmt: skip


def _evaluate(p: argparse.ArgumentParser) -> None:
    p.epilog = (
        "In place of STUDY and NAME: a trial's folder (<home>/trials/<id>), a link to it in a "
        "study's names/, a file of weights in it, or a Hugging Face folder of GPT-2 or Llama."
    )
    p.add_argument("name", nargs="?", help="a trial's name or id; of one seed, a variant's name")
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="patches",
                   help="JSON values; a part as '{\"part\": \"alibi\"}'")  # fmt: skip
    p.add_argument("--over", action="append", default=[], metavar="PATH=VALUE,…",
                   help="a condition for each value; given again: each combination")  # fmt: skip
    p.add_argument("--split", choices=("test", "validation", "train"),
                   help="of the task (default test); no probe but inside reads it")  # fmt: skip
    p.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help="at most N items of each condition; of a probe, of each task or cell",
    )
    p.add_argument("--probe", metavar="NAME",
                   help="ask a probe, with --set probe.x=…, in place of the task; or the suite "
                   "memory")  # fmt: skip
    p.add_argument("--size", choices=("smoke", "quick", "full"), help="of a suite (default quick)")
    p.add_argument("--data", metavar="DIR", help="the probe's data")
    p.add_argument("--hf", action="store_true",
                   help="STUDY is the name of a causal model of the transformers library, or its "
                   "folder")  # fmt: skip
    p.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="what a probe computes in")
    p.add_argument("--against", metavar="FILE.json",
                   help="compare with what -o wrote of another model")  # fmt: skip
    _device(p)
    p.add_argument("-o", "--output", metavar="FILE.csv|.json",
                   help="a file; an existing one is replaced; of a probe with an axis also .svg, "
                   ".png, .pdf")  # fmt: skip


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
    p = verb("plan", "what would run, and what it costs; writes nothing", _study, _json, _where)
    p.add_argument("--with", action="append", default=[], metavar="STUDY", dest="others",
                   help="count together with another study; may be given again")  # fmt: skip

    p = verb("try", "one variant in the foreground; never in a report", _study, _device)
    p.add_argument("name", help="a variant's or trial's name")
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="patches",
                   help="JSON values; a part as '{\"part\": \"alibi\"}'")  # fmt: skip
    p.add_argument("--steps", type=int, help="fewer steps")
    p.add_argument("--pdb", action="store_true", help="a debugger where it breaks")

    p = verb("run", "train and evaluate what is missing, then report", _study)
    _run(p)
    p = verb("stop", "end the runs of a study cleanly, wherever they are", _study)
    p.add_argument("--now", action="store_true", help="do not wait for checkpoints")

    p = verb("status", "the grid: what is done, what runs, what failed", _study, _json)
    p.add_argument("--watch", action="store_true", help="live, until Ctrl-C")
    p = verb("show", "attempts, log and spec of one trial", _study, _json)
    p.add_argument("name", help="a trial's name or id; for --mask also a variant's")
    p.add_argument("-f", "--follow", action="store_true", help="follow its log")
    p.add_argument("--mask", metavar="FILE.png|.svg|.pdf",
                   help="instead: a picture of what each token may read in each layer")  # fmt: skip
    p.add_argument("--lang", choices=("en", "zh"), default="en", help="of the picture")
    p = verb("diff", "what two arms differ in, setting by setting", _study, _json)
    p.add_argument("a", metavar="A", help="a variant, or levels such as position=rope,heads=8")
    p.add_argument("b", metavar="B", help="another one")
    p = verb("evaluate", "a trained model under other conditions; never recorded", _study, _json)
    _evaluate(p)
    p = verb("results", "records as a table", _study)
    p.add_argument("--format", choices=FORMATS,
                   help="default: by the file's name; recipe: what was trained how, a row a "
                   "variant, in Markdown")  # fmt: skip
    p.add_argument("--metric", help="which metric (default: the study's primary one)")
    p.add_argument("--differences", action="store_true", help="beside the baseline arm's values")
    p.add_argument("--slices", action="store_true", help="a column a slice of the items")
    p.add_argument("-o", "--output", help="a file; an existing one is replaced")
    p.add_argument("--wide", action="store_true", help="one column a metric (the study's columns=)")
    verb("verdicts", "hypotheses: supported, refuted or inconclusive", _study, _json)
    p = verb("report", "write the report", _study)
    p.add_argument("-o", "--output", metavar="FILE|DIR",
                   help="a .html or .md file, or a folder for tables, verdicts and figures as "
                   "plain files (default: the study's folder)")  # fmt: skip
    p.add_argument("--paper", action="store_true", help="also PDF figures and LaTeX tables")
    p.add_argument("--lang", choices=("en", "zh"), default="en")
    p = verb("bundle", "pack a study for others: records, hypotheses, sources", _study)
    p.add_argument("-o", "--output", help="a .zip file (default: <study>.paribus.zip here)")
    p.add_argument("--weights", action="store_true", help="the trained weights too")
    p.add_argument("--anonymous", action="store_true",
                   help="without host, user, paths, remotes and diffs")  # fmt: skip
    p = verb("verify", "recompute every verdict from a bundle; runs nothing of it", _json)
    p.add_argument("bundle", help="the .zip file")
    p = verb("import", "a run made elsewhere, as a descriptive arm", _study)
    p.add_argument("file", help="a CSV or JSON file of results, or a bundle")
    p.add_argument("--name", dest="called", help="what the arm is called")
    p.add_argument("--source", help="where it comes from: a paper, an address, a person")
    p = verb("notebook", "the days of a home: what ran, what came out", _json)
    p.add_argument("--home", help="where results live (default: $PARIBUS_HOME, else runs/)")
    p.add_argument("--day", help="only this day, such as 2026-03-31")
    p.add_argument("-o", "--output", help="a folder: one page a day, as HTML and Markdown")
    p.add_argument("--lang", choices=("en", "zh"), default="en")
    p = verb("note", "a remark of your own in the notebook; appended, never edited")
    p.add_argument("text", help="what you have to say")
    p.add_argument("--status", choices=("hypothesis", "supported", "withdrawn"))
    p.add_argument("--on", action="append", default=[], metavar="TRIAL|STUDY|NOTE",
                   help="what it is about; may be given again")  # fmt: skip
    p.add_argument("--home", help="where results live (default: $PARIBUS_HOME, else runs/)")
    p = verb("gc", "free space: checkpoints that nothing needs any more", _json)
    p.add_argument("--home", help="where results live (default: $PARIBUS_HOME, else runs/)")
    p.add_argument("--dry-run", action="store_true", help="only say what would go")
    p.add_argument("--yes", action="store_true", help="do not ask")
    p = verb("doctor", "what is wrong with this machine or home", _json)
    p.add_argument("--home", help="where results live (default: $PARIBUS_HOME, else runs/)")
    p = verb("list", "shipped studies and parts", _json)
    p.add_argument("part", nargs="?", help="one part, such as tasks.lm: its fields and metrics")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; a user's mistake is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(arguments)
    options.arguments = arguments  # for provenance, and for the same command without a terminal
    from paribus.errors import ParibusError, SpecError

    try:
        module = importlib.import_module(f"paribus.{WHERE.get(options.verb, 'verbs')}")
        return int(getattr(module, f"do_{options.verb}")(options))
    except SpecError as error:
        print(f"paribus: {error}", file=sys.stderr)
        return WRONG
    except ParibusError as error:
        print(f"paribus: {error}", file=sys.stderr)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return STOPPED  # nothing failed: the same command goes on when there is space
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
