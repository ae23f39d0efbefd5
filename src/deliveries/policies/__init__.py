"""Ready-made policies: quiet hours, caps and a suppression list. Give them to `app.policy`."""
