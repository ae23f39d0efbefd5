"""Ready-made adapters: code that performs a channel, for `app.adapter(...)`."""
