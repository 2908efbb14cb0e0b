"""Every shipped part keeps the promises of its kind; a new file in a parts folder is tested by
being there."""

from __future__ import annotations

import warnings

import pytest

from paribus import parts
from paribus.engine import contract


@pytest.mark.parametrize("cls", parts.scan_all(), ids=lambda c: f"{c.kind}.{c.__part__}")
def test_part_keeps_its_promises(cls):
    results = contract.run(cls)
    assert len(results) >= 3
    failed = [f"{r.name}: {r.text}" for r in results if r.failed]
    assert not failed, "\n".join(failed)
    for r in results:
        if r.skipped:
            warnings.warn(
                f"{cls.kind}.{cls.__part__} {r.name} NOT TESTED: {r.skipped}", stacklevel=1
            )


def test_every_kind_has_tests_of_its_own():
    from paribus.engine import contract_data, contract_nn, contract_places, contract_train

    modules = (contract_data, contract_nn, contract_places, contract_train)
    tested = {kind for module in modules for kind in module.KINDS}
    assert parts.FOLDERS.keys() - tested == {"probes"}
