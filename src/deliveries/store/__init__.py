"""Where deliveries rest: tables, guards, statements; SQLite and PostgreSQL."""
