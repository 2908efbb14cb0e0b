"""Names taken out of what is shared: hosts, users, paths, addresses; the same name always by the
same word, so that what was told apart still is.

Names that were recorded (host, user, folders) are replaced wherever they stand.  Paths, addresses
and e-mail are found by their form.  A name that nobody recorded, in prose, is not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

ARRAYS = ("items", "groups", "curves")
"""Keys of records under which are numbers alone, packed as base64: in that slashes mean nothing."""

COMMON = frozenset(
    "root user users admin nobody ubuntu debian runner jovyan home runs tmp data localhost local "
    "localdomain none main test cpu cuda".split()
)
"""Names of users, hosts and folders that tell nothing, and words that stand elsewhere too."""

PUBLIC = ("arxiv.org", "doi.org", "w3.org", "purl.org", "openreview.net", "aclanthology.org")
"""Sites whose addresses say nothing about who wrote them down."""

_PART = r"[^\s/\\'\"`<>|:;,()\[\]{}]+"
PROCESS = re.compile(r"process \d+ on \S+ \(worker [^\s()]+\)")
URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]}`\\]+", re.IGNORECASE)
REMOTE = re.compile(r"\b[\w.-]+@[\w-]+(?:\.[\w-]+)+:[\w./~-]+|\bgit@[\w.-]+:[\w./~-]+")
EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
# A slash that begins a path: not one of a division, of an address, of an end tag or of a:/b.
PATH = re.compile(
    rf"(?<![\w./:<>&;)\]}}*\\-])/(?:{_PART}/)*{_PART}/?|"
    rf"(?<!\w)[A-Za-z]:[\\/]{{1,2}}(?:{_PART}[\\/]{{1,2}})*{_PART}|"
    rf"\\\\\w[\w.-]*\\{{1,2}}{_PART}(?:\\{{1,2}}{_PART})*|"
    rf"~\w[\w-]*/(?:{_PART}/)*{_PART}|(?<!\w)~/(?:{_PART}/)*{_PART}"
)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d:\d\d")
KEPT = re.compile(r"(?<![a-z0-9])(?:x86_64|aarch64|arm64|i686|ppc64le|(?:glibc|musl)[\d.]*)")


class Scrub:
    """Replaces names.

    Args:
        names: kind (host, user, folder) -> what is known of them.
        paths: those that are known; they are replaced with what follows them.
        keep: words that the files are made of (keys, metrics, parts): a name that is one of them
            is left, and told in `left`.
    """

    def __init__(
        self, names: Mapping[str, Iterable[str]], paths: Iterable[str], keep: Iterable[str] = ()
    ) -> None:
        words = {w.lower() for w in keep}
        self.left: set[str] = set()
        self._as: dict[tuple[str, str], str] = {}
        self._names: list[tuple[str, str, re.Pattern[str]]] = []
        for kind, given in names.items():
            for name in sorted({n.lower() for n in given}, key=lambda n: (-len(n), n)):
                if len(name) < 2 or name in COMMON or name.isdigit():
                    continue
                if name in words:
                    self.left.add(name)
                    continue
                pattern = rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"
                self._names.append((kind, name, re.compile(pattern, re.IGNORECASE)))
        self._paths = sorted({p for p in paths if len(p) > 2}, key=lambda p: (-len(p), p))

    def word(self, kind: str, name: str) -> str:
        """``path-1``: the same for the same name."""
        if (kind, name) not in self._as:
            number = 1 + sum(k == kind for k, _ in self._as)
            self._as[kind, name] = f"{kind}-{number}"
        return self._as[kind, name]

    @property
    def counts(self) -> dict[str, int]:
        """How many different names of each kind were replaced."""
        kinds = [kind for kind, _ in self._as]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def text(self, text: str) -> str:
        """A text without names; times in UTC."""
        text = PROCESS.sub("a process", text)
        if "://" in text:
            text = URL.sub(lambda m: self._address(m[0]), text)
        if "@" in text:
            text = REMOTE.sub(lambda m: self.word("address", m[0]), text)
            text = EMAIL.sub(self._email, text)
        if text.startswith(("/", "~/")) and "\n" not in text and len(text) > 1:
            return self.word("path", text)  # whole, spaces included
        for path in self._paths:
            if path in text:
                text = re.sub(re.escape(path) + rf"(?:[\\/]{_PART})*", self._path, text)
        if "/" in text or "\\" in text:
            text = PATH.sub(self._path, text)
        text = TIME.sub(_utc, text)
        for kind, name, pattern in self._names:
            text = pattern.sub(self._as_word(kind, name), text)
        return text

    def markup(self, text: str) -> str:
        """HTML made from texts that were scrubbed: names that are known, once more."""
        for path in self._paths:
            text = text.replace(path, self.word("path", path)) if path in text else text
        for kind, name, pattern in self._names:
            text = pattern.sub(self._as_word(kind, name), text)
        return text

    def data(self, x: Any) -> Any:
        """Plain data without names, in keys too."""
        if isinstance(x, str):
            return self.text(x)
        if isinstance(x, Mapping):
            return {
                self.text(str(k)): platform(v)
                if k == "platform"
                else v
                if k in ARRAYS
                else self.data(v)
                for k, v in x.items()
            }
        return [self.data(v) for v in x] if isinstance(x, list | tuple) else x

    def found(self, content: str) -> list[str]:
        """Known names that a text still holds."""
        names = [name for _, name, pattern in self._names if pattern.search(content)]
        return names + [path for path in self._paths if path in content]

    def _email(self, match: re.Match[str]) -> str:
        """`name@scale.paribus.zip` is none."""
        return match[0] if match[0].endswith(".zip") else self.word("email", match[0].lower())

    def _path(self, match: re.Match[str]) -> str:
        return self.word("path", match[0])

    def _as_word(self, kind: str, name: str) -> Callable[[re.Match[str]], str]:
        return lambda _: self.word(kind, name)

    def _address(self, url: str) -> str:
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()
        host = host.partition(":")[0]
        if any(host == site or host.endswith(f".{site}") for site in PUBLIC):
            return url
        return self.word("address", url)


def _utc(match: re.Match[str]) -> str:
    """A time without its zone, which says where on Earth it was."""
    return datetime.fromisoformat(match[0]).astimezone(UTC).isoformat()


def platform(told: Any) -> Any:
    """System, processor and C library; kernels have names of their site."""
    if isinstance(told, Mapping):
        kept = {"machine": told.get("machine"), "system": platform(told.get("system"))}
        return {k: v for k, v in kept.items() if v}
    if not isinstance(told, str):
        return None
    return "-".join(dict.fromkeys([told.partition("-")[0], *KEPT.findall(told)]))


def provenance(about: Mapping[str, Any], scrub: Scrub) -> dict[str, Any]:
    """What of an attempt's provenance can be shown: versions, settings and devices.  Not where,
    by whom, with which command, and from which repository."""
    python, paribus = about.get("python") or {}, about.get("paribus") or {}
    kept = {
        key: about.get(key) for key in ("at", "packages", "engine", "settings", "torch", "gpus")
    }
    kept["python"] = {k: python.get(k) for k in ("version", "implementation")}
    kept["paribus"] = {"version": paribus.get("version")}
    kept["platform"] = platform(about.get("platform") or {})
    kept["lock"] = {"sha256": (about.get("lock") or {}).get("sha256")}
    variables = about.get("environment") or {}
    kept["environment"] = {
        k: v
        for k, v in variables.items()
        if not k.startswith("SLURM") and not re.search(r"[/\\]", v)
    }
    cleaned: dict[str, Any] = scrub.data(kept)
    return cleaned
