"""A disk that can be broken: it sees every file operation under a folder.

The operations are real ones.  Beside them a picture is kept of what is durable: a file's content
by fsync of the file, a folder's entries by fsync of the folder, and nothing else.  After a power
cut each entry and each content that was not durable is there or not, as a die decides.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WRITING = ("create", "write", "fsync", "link", "unlink", "mkdir", "rmdir", "replace")
READING = ("read", "stat", "list")


@dataclass(frozen=True)
class Fault:
    """What an operation says, before or after taking effect; a write may take half an effect."""

    number: int
    after: bool = False


@dataclass(eq=False)
class File:
    data: bytes = b""
    kept: bytes | None = None
    poisoned: bool = False


@dataclass(eq=False)
class Folder:
    live: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Symlink:
    target: str


Hook = Callable[[str, str], Fault | None]
"""Told the operation and its path before it happens; it may raise, or have it fail."""


class Disk:
    """`root` must exist and be empty.  `trace` lists (operation, path) of what took effect."""

    def __init__(self, root: Path, hook: Hook) -> None:
        self.root = str(root)
        self.hook = hook
        self.tree = Folder()
        self.trace: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.open: dict[int, tuple[Any, str]] = {}
        self.inner = False  # a builtin may call a patched function itself

    # ── the picture ──

    def inside(self, path: Any) -> str | None:
        if self.inner or isinstance(path, int):
            return None
        text = os.fspath(path)
        if isinstance(text, bytes):
            return None
        return text if text.startswith(self.root + "/") or text == self.root else None

    def node(self, path: str) -> Any:
        at: Any = self.tree
        for name in path[len(self.root) :].split("/"):
            if name:
                if not isinstance(at, Folder):
                    return None
                at = at.live.get(name)
        return at

    def parent(self, path: str) -> tuple[Folder, str]:
        folder, _, name = path.rpartition("/")
        return self.node(folder), name

    def _took_effect(self, op: str, path: str, *more: Any) -> None:
        self.trace.append((op, path))
        if op in ("create", "mkdir", "link", "symlink"):
            folder, name = self.parent(path)
            new = {"create": File, "mkdir": Folder}.get(op)
            folder.live[name] = more[0] if new is None else new()
        elif op in ("unlink", "rmdir"):
            folder, name = self.parent(path)
            del folder.live[name]
        elif op == "replace":
            folder, name = self.parent(path)
            old, old_name = self.parent(more[0])
            folder.live[name] = old.live.pop(old_name)

    def _sync(self, node: Any, path: str, failed: bool) -> None:
        if isinstance(node, Folder):
            if not failed:
                node.kept = dict(node.live)
        elif failed:
            node.poisoned = True
        elif node.poisoned:
            self.wrong.append(f"fsync of {path} after a failed one: it says nothing")
        else:
            node.kept = node.data

    # ── operations ──

    def _do(
        self, op: str, path: str, real: Callable[[], Any], effect: Callable[[], None] | None = None
    ) -> Any:
        fault = self.hook(op, path)
        if fault is not None and not fault.after:
            raise OSError(fault.number, os.strerror(fault.number), path)
        self.inner = True
        try:
            result = real()
        finally:
            self.inner = False
        if effect is not None:
            effect()
        if fault is not None:
            raise OSError(fault.number, os.strerror(fault.number), path)
        return result

    def install(self, patch: pytest.MonkeyPatch) -> None:
        real = {name: getattr(os, name) for name in
                ("open", "close", "write", "pwrite", "fsync", "link", "unlink", "mkdir", "rmdir",
                 "replace", "rename", "symlink", "stat", "lstat", "listdir")}  # fmt: skip
        real_open = builtins.open
        self.real_open = real_open

        def simple(name: str, op: str) -> Callable[..., Any]:
            def call(path: Any = ".", *rest: Any, **more: Any) -> Any:
                text = None if more.get("dir_fd") else self.inside(path)
                if text is None:
                    return real[name](path, *rest, **more)
                took = None if op in READING else lambda: self._took_effect(op, text)
                return self._do(op, text, lambda: real[name](path, *rest, **more), took)

            return call

        def opening(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            text = self.inside(path)
            if text is None:
                descriptor = real["open"](path, flags, mode, **more)
                self.open.pop(descriptor, None)
                return int(descriptor)
            create = bool(flags & os.O_CREAT) and self.node(text) is None
            made: list[int] = []

            def effect() -> None:
                if create:
                    self._took_effect("create", text)
                self.open[made[0]] = (self.node(text), text)

            def act() -> int:
                made.append(real["open"](path, flags, mode, **more))
                return made[0]

            try:
                return int(self._do("create" if create else "read", text, act, effect))
            except OSError:
                if made:
                    real["close"](made[0])
                raise

        def plain_open(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            text = self.inside(path)
            if text is None:
                return real_open(path, mode, *rest, **more)
            create = "r" not in mode and self.node(text) is None
            effect = (lambda: self._took_effect("create", text)) if create else None
            file = self._do(
                "create" if create else "read", text,
                lambda: real_open(path, mode, *rest, **more), effect,
            )  # fmt: skip
            if "r" in mode:
                self.open.pop(file.fileno(), None)
            else:
                self.open[file.fileno()] = (self.node(text), text)
            return file

        def writing(descriptor: int, data: Any, *at: int) -> int:
            name = "pwrite" if at else "write"
            if descriptor not in self.open or self.inner:
                return int(real[name](descriptor, data, *at))
            node, text = self.open[descriptor]
            whole = bytes(data)

            def effect() -> None:
                self.trace.append(("write", text))
                start = at[0] if at else len(node.data)
                node.data = node.data[:start] + whole + node.data[start + len(whole) :]

            fault = self.hook("write", text)
            if fault is not None:
                if fault.after:
                    whole = whole[: len(whole) // 2]
                    real[name](descriptor, whole, *at)
                    effect()
                raise OSError(fault.number, os.strerror(fault.number), text)
            done = int(real[name](descriptor, whole, *at))
            effect()
            return done

        def syncing(descriptor: int) -> None:
            if descriptor not in self.open:
                return
            node, text = self.open[descriptor]
            fault = self.hook("fsync", text)
            self._sync(node, text, fault is not None)
            if fault is not None:
                raise OSError(fault.number, os.strerror(fault.number), text)
            self.trace.append(("fsync", text))

        def closing(descriptor: int) -> None:
            self.open.pop(descriptor, None)
            real["close"](descriptor)

        def linking(source: Any, target: Any, **more: Any) -> None:
            text = self.inside(target)
            if text is None:
                return real["link"](source, target, **more)
            node: list[Any] = []

            def act() -> None:
                node.append(self.node(os.fspath(source)))
                real["link"](source, target, **more)

            self._do("link", text, act, lambda: self._took_effect("link", text, node[0]))

        def symlinking(source: Any, target: Any, is_folder: bool = False, **more: Any) -> None:
            text = self.inside(target)
            if text is None:
                return real["symlink"](source, target, is_folder, **more)
            node = Symlink(os.fspath(source))
            self._do(
                "create",
                text,
                lambda: real["symlink"](source, target, is_folder, **more),
                lambda: self._took_effect("symlink", text, node),
            )

        def replacing(name: str) -> Callable[..., None]:
            def call(source: Any, target: Any, **more: Any) -> None:
                text = self.inside(target)
                if text is None:
                    return real[name](source, target, **more)
                effect = lambda: self._took_effect("replace", text, os.fspath(source))  # noqa: E731
                self._do("replace", text, lambda: real[name](source, target, **more), effect)

            return call

        patch.setattr(os, "open", opening)
        patch.setattr(builtins, "open", plain_open)
        patch.setattr(io, "open", plain_open)
        patch.setattr(os, "write", writing)
        patch.setattr(os, "pwrite", writing)
        patch.setattr(os, "fsync", syncing)
        patch.setattr(os, "close", closing)
        patch.setattr(os, "link", linking)
        patch.setattr(os, "symlink", symlinking)
        for name in ("replace", "rename"):
            patch.setattr(os, name, replacing(name))
        for name, op in (("unlink", "unlink"), ("mkdir", "mkdir"), ("rmdir", "rmdir"),
                         ("stat", "stat"), ("lstat", "stat"), ("listdir", "list")):  # fmt: skip
            patch.setattr(os, name, simple(name, op))

    # ── power cuts ──

    def after_cut(self, dice: random.Random, target: Path) -> Folder:
        """Make at `target` (which may be the root itself) what a power cut now would leave;
        returns its picture."""
        contents: dict[int, tuple[bytes, Path]] = {}
        lost = dice.choice([1.0, 1.0, 0.5, 0.1])

        def content(node: File) -> bytes:
            if node.kept == node.data:
                return node.data
            options = [node.data, node.data[: len(node.data) // 2], b"", b"\0" * len(node.data)]
            if node.kept is not None:
                options = [node.kept, node.data]
            elif lost == 1.0:
                options = [b""]
            return dice.choice(options)

        def make(folder: Folder, path: Path) -> Folder:
            os.mkdir(path)
            new = Folder()
            for name in sorted(folder.live.keys() | folder.kept.keys()):
                node = (folder.kept if dice.random() < lost else folder.live).get(name)
                if isinstance(node, Folder):
                    new.live[name] = make(node, path / name)
                elif isinstance(node, Symlink):
                    os.symlink(node.target, path / name)
                    new.live[name] = node
                elif isinstance(node, File):
                    if id(node) in contents:
                        os.link(contents[id(node)][1], path / name)
                    else:
                        contents[id(node)] = (content(node), path / name)
                        (path / name).write_bytes(contents[id(node)][0])
                    new.live[name] = made.setdefault(id(node), File())
                    new.live[name].data = new.live[name].kept = contents[id(node)][0]
            new.kept = dict(new.live)
            return new

        made: dict[int, File] = {}
        if target.exists():
            shutil.rmtree(target)
        return make(self.tree, target)


FAULTS = {
    "write": (errno.ENOSPC, errno.EIO, errno.EINTR),
    "create": (errno.ENOSPC, errno.EIO, errno.EINTR),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EINTR),
    "link": (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EEXIST, errno.ESTALE),
    "unlink": (errno.EIO, errno.EINTR),
    "mkdir": (errno.ENOSPC, errno.EIO, errno.EINTR),
    "rmdir": (errno.EIO, errno.EINTR),
    "replace": (errno.EIO, errno.ENOSPC, errno.EINTR),
    "read": (errno.ESTALE, errno.EINTR),
    "list": (errno.EIO, errno.EINTR),
    "stat": (errno.EIO, errno.EINTR),
}
"""What an operation may say.  (EIO from reading a file means that the file is damaged.)"""


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
