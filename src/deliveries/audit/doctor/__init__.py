"""Why does nothing move: checks of a database, its server, and who works on it."""

from deliveries.audit.doctor.examination import LATE_SECONDS, LONG_SECONDS, examine
from deliveries.audit.doctor.report import Check, Diagnosis

__all__ = ["LATE_SECONDS", "LONG_SECONDS", "Check", "Diagnosis", "examine"]
