"""The ``onfh`` command: a dispatcher, and one module for each subcommand of the runtime."""
