"""Ready-made policies: quiet hours, caps and a suppression list. Give them to `app.policy`."""

from deliveries.policies.cap import Cap
from deliveries.policies.quiet_hours import QuietHours
from deliveries.policies.suppression_list import OptedOut, SuppressionList

__all__ = ["Cap", "OptedOut", "QuietHours", "SuppressionList"]
