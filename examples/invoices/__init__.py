"""A PDF for each invoice, mailed; see README.md."""
