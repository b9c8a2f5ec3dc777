#!/usr/bin/env python
"""Write a Hugging Face folder, a PEFT folder or a GGUF file; see configs/export.yaml."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.command import command
from src.errors import UserError
from src.models.export import FORMATS, export, export_gguf, export_gguf_adapter
from src.models.gguf.verify import verification_table
from src.models.merge import MANIFEST


@command("export")
def main(cfg: DictConfig) -> None:
    if cfg.format not in FORMATS:
        raise UserError(f"format={cfg.format} is none of: {', '.join(FORMATS)}")
    model = instantiate(cfg.model)
    output = Path(cfg.output).expanduser()
    adapter, checkpoint = (path and Path(path).expanduser() for path in (cfg.adapter_path, cfg.checkpoint))
    if cfg.format == "gguf_adapter":
        if not adapter:
            raise UserError("format=gguf_adapter needs adapter_path=…: give a PEFT folder")
        print(export_gguf_adapter(model, output, adapter))
        return
    if cfg.format == "gguf":
        found = export_gguf(model, output, cfg.file_type, adapter, checkpoint, cfg.verify)
        manifest = output.with_name(f"{output.name}.merge.json")
        Console().print(verification_table(found))
    else:
        fields = {"training_data": cfg.training_data} if cfg.training_data else {}
        folder = export(model, output, adapter, checkpoint, cfg.dtype, fields)
        manifest = folder / MANIFEST
    if adapter:
        Console().print(merge_table(json.loads(manifest.read_text(encoding="utf-8"))))
    print(output)


def merge_table(manifest: dict) -> Table:  # type: ignore[type-arg]
    """What merging an adapter changed, for the terminal."""
    table = Table(
        "merged layers", "tensors changed", "weights changed", "largest change", box=None, header_style="bold"
    )
    for name, one in manifest["modules"].items():
        share = f"{one['changed_weights'] / one['weights']:.1%}"
        table.add_row(name, f"{one['changed']} of {one['tensors']}", share, f"{one['largest_change']:.3g}")
    return table


if __name__ == "__main__":
    main()
