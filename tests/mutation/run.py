"""Judges the mutants of the files that [tool.mutmut] names, in the project's copy that is the present folder.

mutmut makes the mutants and keeps the verdicts (`mutmut results`, `mutmut show`); its own way to ask
about one is to collect the tests anew and to run all that enter the changed function, in any order.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutmut.__main__ as mutmut
import pytest
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData

from mutation.judge import CPU_SECONDS, KILLED, NO_TESTS, SURVIVED, TIMEOUT, Judge, Mutant, Trial
from mutation.lines import changed

NAMES = {KILLED: "killed", SURVIVED: "survived", TIMEOUT: "timeout", NO_TESTS: "no tests"}


def made() -> dict[str, SourceFileMutationData]:
    """Make what is missing; mutant -> where its verdict is kept."""
    mutmut.set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.setup_source_paths()
    mutmut.create_mutants(1)
    mutants, _ = mutmut.collect_source_file_mutation_data(mutant_names=())
    kept = {name: data for data, name, _ in mutants}
    for data in kept.values():
        data.meta_path = data.meta_path.absolute()  # the tests run in another folder
    return kept


def ask_anew(kept: dict[str, SourceFileMutationData]) -> int:
    """What runs at import, and what is made then, has been imported unchanged: it is asked about here."""
    living = [name for name, data in kept.items() if data.exit_code_by_key[name] in (SURVIVED, NO_TESTS)]
    os.chdir("mutants")
    if asked_anew("") != SURVIVED:
        print("the tests fail while nothing is changed")
        return 1
    for number, name in enumerate(living, start=1):
        kept[name].exit_code_by_key[name] = verdict = asked_anew(name)
        kept[name].save()
        print(f"{number}/{len(living)}", NAMES[verdict], name, flush=True)
    return 0


def asked_anew(name: str) -> int:
    """What all tests say of a mutant, in a process of their own."""
    tests = [*config().pytest_add_cli_args_test_selection, *config().pytest_add_cli_args]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--rootdir=.", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "MUTANT_UNDER_TEST": name}
    try:
        run = subprocess.run(command, env=env, check=False, capture_output=True, timeout=CPU_SECONDS)
    except subprocess.TimeoutExpired:
        return TIMEOUT
    return KILLED if run.returncode else SURVIVED


def main() -> int:
    """0 where the tests pass while nothing is changed, whatever they say of the mutants."""
    parser = argparse.ArgumentParser(prog="mutation")
    parser.add_argument("only", nargs="*", help="mutants, as `*.x_sweep__*`; those without a verdict if none")
    parser.add_argument("--children", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--anew", action="store_true", help="all tests, in a process for each of those that no test killed"
    )
    options = parser.parse_args()

    kept = made()
    if options.anew:
        return ask_anew(kept)
    where = {str(data.path): changed(Path("mutants", data.path).resolve()) for data in set(kept.values())}
    mutants = [
        Mutant(
            name, str(Path("mutants", data.path).resolve()), where[str(data.path)][name.rpartition(".")[2]]
        )
        for name, data in kept.items()
        if any(fnmatch.fnmatch(name, one) for one in options.only)
        or (not options.only and data.exit_code_by_key[name] is None)
    ]
    count: Counter[int] = Counter()

    def tell(trial: Trial) -> None:
        data = kept[trial.mutant.name]
        data.exit_code_by_key[trial.mutant.name] = trial.verdict
        data.save()
        count[trial.verdict] += 1
        told = (f"{sum(count.values())}/{len(mutants)}", NAMES[trial.verdict], trial.mutant.name, trial.test)
        print(*told, flush=True)

    judge = Judge(mutants, tell, options.children)
    os.chdir("mutants")
    quiet = ["-q", "--tb=no", "--rootdir=.", "--capture=sys", "-p", "no:cacheprovider"]
    code = pytest.main(
        [*quiet, *config().pytest_add_cli_args_test_selection, *config().pytest_add_cli_args], [judge]
    )
    print(*judge.broken, sep="\n")
    return int(bool(judge.broken) or code not in (0, 1))
