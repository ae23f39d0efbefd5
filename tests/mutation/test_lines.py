"""A mutant is looked for where it is: one that is looked for elsewhere would survive unseen."""

from __future__ import annotations

from pathlib import Path

from mutation.lines import changed

MUTATED = '''
def x_two__mutmut_orig(a):
    """Twice."""
    if a is None:
        return None
    return sum(
        [a, a],
    )

def x_two__mutmut_1(a):
    """Twice."""
    if a is not None:
        return None
    return sum(
        [a, a],
    )

def x_two__mutmut_2(a):
    """Twice."""
    if a is None:
        return None
    return sum(
        [a],
    )

async def x_wait__mutmut_orig():
    await one()
    await other()

async def x_wait__mutmut_1():
    await one()
    await None

class Twice:
    def x_of__mutmut_orig(self):
        return call(1,
            2)

    def x_of__mutmut_1(self):
        return call(1,
            )
'''


def test_the_statement_in_the_original_that_a_mutant_changes(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(MUTATED)
    assert changed(file) == {
        "x_two__mutmut_1": {4},
        "x_two__mutmut_2": {6, 7, 8},
        "x_wait__mutmut_1": {28},
        "x_of__mutmut_1": {36, 37},
    }
