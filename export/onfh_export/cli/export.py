"""``onfh export``: two checkpoints and a configuration become a bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onfh_export.extras import require_export_extra
from onfh_runtime.errors import UsageError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "turn two trained checkpoints into a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--classifier", type=Path, required=True, metavar="DIR", help="Transformers folder of stage 1")
    parser.add_argument("--segmenter", type=Path, required=True, metavar="DIR", help="Transformers folder of stage 2")
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="JSON: preprocessing, rules and thresholds"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card to put in as MODEL_CARD.md")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        MissingExtraError: the export extra is not installed.
        UsageError: an input is unusable.
        OutputError: the bundle cannot be written, or is already there.
        OnfhError: an exported stage does not answer as its checkpoint does.
    """
    require_export_extra()
    from onfh_export.write_bundle import bundle_from_checkpoints, read_config

    extra = {"MODEL_CARD.md": _text(args.card)} if args.card else None
    bundle = bundle_from_checkpoints(
        args.classifier, args.segmenter, read_config(args.config), args.out, extra=extra, force=args.force
    )
    print(f"{args.out}: {bundle.content.name} {bundle.content.version}, bundle {bundle.sha256[:12]}", file=sys.stderr)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError("card_unreadable", f"{path} cannot be read as text.") from error
