"""The plugin as a user has it: by entry point, in a pytest process of its own, with nothing imported."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SHOP = """
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from deliveries import Delivered, Deliveries

app = Deliveries("sqlite:///production.db")


@app.adapter("receipt", max_attempts=3)
def receipt(delivery, attempt):
    return Delivered({"sent": delivery.recipient})


def pay(session, order):
    app.schedule(session, "receipt", {"order": order}, recipient="ann@example.org", key=f"order:{order}")
"""

CONFTEST = """
import pytest
from sqlalchemy.orm import Session


@pytest.fixture
def deliveries_app():
    import shop
    return shop.app


@pytest.fixture
def session(deliveries_kit):
    with Session(deliveries_kit.engine) as session:
        yield session
"""


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    """A user's project: an application, and a conftest that names it."""
    pytester.makepyfile(shop=SHOP)
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\nfilterwarnings = error")
    return pytester


def test_a_users_tests_pass(user: pytest.Pytester) -> None:
    user.makepyfile(
        test_shop="""
from datetime import timedelta

import pytest
import shop


def test_a_payment_owes_a_receipt(session, assert_scheduled, refute_scheduled, all_scheduled):
    shop.pay(session, 1)
    refute_scheduled("receipt", {"order": 2}, session=session)
    assert_scheduled("receipt", {"order": 1}, session=session)
    session.commit()
    assert assert_scheduled("receipt", {"order": 1}, recipient="ann@example.org").key == "order:1"
    refute_scheduled("receipt", {"order": 2})
    assert len(all_scheduled()) == 1


def test_nothing_is_left_of_other_tests(refute_scheduled):
    refute_scheduled()


def test_the_adapter(perform_delivery):
    assert perform_delivery("receipt", {"order": 1}, recipient="bob").receipt == {"sent": "bob"}


def test_retries(session, deliveries_kit, deliveries_clock, drain):
    script = deliveries_kit.script("receipt", ConnectionError("reset"), deliveries_kit.CRASH)
    shop.pay(session, 1)
    session.commit()
    began = deliveries_clock.now()
    assert drain().retrying == 1
    assert drain(until=timedelta(days=1)).succeeded == 1
    assert deliveries_clock.now() == began + timedelta(days=1)
    assert [attempt.number for _, attempt in script.calls] == [1, 2, 3]
    assert deliveries_kit.findings() == []


class TestInline:
    @pytest.fixture
    def deliveries_mode(self):
        return "inline"

    def test_performed_at_commit(self, session, assert_scheduled):
        shop.pay(session, 1)
        session.commit()
        assert assert_scheduled("receipt").status == "succeeded"


def test_the_application_is_back(tmp_path):
    assert shop.app.engine.url.database == "production.db"
"""
    )
    user.runpytest_subprocess("-q").assert_outcomes(passed=6)
    assert not (user.path / "production.db").exists()


def test_a_failed_assertion_tells_the_nearest(user: pytest.Pytester) -> None:
    user.makepyfile(
        """
import shop

def test_it(session, assert_scheduled):
    shop.pay(session, 1)
    session.commit()
    assert_scheduled("receipt", {"order": 2})
"""
    )
    result = user.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * nothing like this is scheduled: channel='receipt', payload={'order': 2}",
            "E * nearest of 1:",
            "E * receipt to 'ann@example.org': {'order': 1} (pending, due *Z, key order:1) *",
            "E * payload.order is 1, not 2",
        ]
    )


def test_whoever_does_not_use_it_does_not_pay_for_it(pytester: pytest.Pytester) -> None:
    """No library that ours needs is imported, and a user's own fixtures of these names are theirs."""
    pytester.makepyfile(
        """
import sys
import pytest

@pytest.fixture
def drain():
    return "mine"

def test_it(drain, pytestconfig):
    assert drain == "mine"
    assert pytestconfig.pluginmanager.hasplugin("deliveries")
    assert not {"sqlalchemy", "msgspec", "eventsourcing", "hypothesis"} & {*sys.modules}
    ours = {name for name in sys.modules if name.split(".")[0] == "deliveries"}
    assert ours == {"deliveries", "deliveries.testing", "deliveries.testing.plugin"}
"""
    )
    pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_it_works_without_hypothesis(user: pytest.Pytester) -> None:
    user.makeconftest("import sys\nsys.modules['hypothesis'] = None\n" + CONFTEST)
    user.makepyfile(
        """
import pytest
import shop
from deliveries.testing import AdapterContract, given
from deliveries.testing.lives import life

def test_it(session, drain):
    shop.pay(session, 1)
    session.commit()
    assert drain().succeeded == 1

def test_what_needs_it_says_so():
    with pytest.raises(ImportError, match="hypothesis"):
        from deliveries.testing import histories

class TestReceipt(AdapterContract):
    @pytest.fixture
    def adapter(self):
        return shop.receipt
"""
    )
    outcomes = user.runpytest_subprocess("-p", "no:hypothesispytest").parseoutcomes()
    assert outcomes.keys() == {"passed", "skipped"}
    assert outcomes["passed"] >= 10


def test_it_can_be_turned_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(deliveries_kit): pass")
    result = pytester.runpytest_subprocess("-p", "no:deliveries")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'deliveries_kit' not found*"])


def test_from_type_works_whatever_is_imported_first(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
from hypothesis import HealthCheck, given, settings
from deliveries import Delivery

@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(...)
def test_it(delivery: Delivery):
    assert (delivery.due_at is not None) == (delivery.status == "pending")

class TestMachine:
    def test_it(self):
        from deliveries.testing import DeliveryMachine
"""
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
