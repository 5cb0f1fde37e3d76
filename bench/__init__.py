"""How fast it is, measured: the whole path over a real broker, its parts, and a plain Faust agent beside it."""
