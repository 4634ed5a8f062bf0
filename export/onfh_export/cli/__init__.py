"""The subcommands of ``onfh`` that this package brings."""
