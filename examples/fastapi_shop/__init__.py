"""A web shop whose every order owes a webhook and a mail; see README.md."""
