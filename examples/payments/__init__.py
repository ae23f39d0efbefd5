"""A shop that charges cards, and what it takes never to charge one twice; see README.md."""
