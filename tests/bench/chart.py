"""The comparison as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from measure import OURS, PEER

if TYPE_CHECKING:
    from pathlib import Path

    from samples import Samples

BARS = {
    "next ECDSA P-256 signature": "next p256",
    "next ECDSA P-384 signature": "next p384",
    "next RSA-2048 signature": "next rsa",
    "C_Login": "start 1 login",
    "start to first signature, 1 key": "start 1 total",
    "the same, 1,000 keys": "start 1000 total",
    "the same, 10,000 keys": "start 10000 total",
    "the same, 1 key, discrete TPM": "start discrete total",
    "the same, behind /dev/tpmrm0": "start tpmrm0 total",
}
WIDTH, LEFT, TOP, STEP, BAR, SCALE = 760, 250, 64, 30, 18, 360  # pixels; SCALE is as wide as the peer's time
MOST = 1.25
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#555}.title{font-weight:600;font-size:15px}.bar{fill:#2a7f62}"
    ".slow{fill:#c2543d}.peer{stroke:#888;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.bar{fill:#4cb592}.slow{fill:#e07a5f}}"
)


def write(samples: Samples, path: Path) -> None:
    """Draw our time as a share of the peer's, a bar for each figure, as SVG."""
    height = TOP + STEP * len(BARS) + 16
    peer = LEFT + SCALE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="16" y="24">{escape(f"Time of {OURS}, {PEER} = 1, on the same TPM")}</text>',
        f'<text x="{peer}" y="50" text-anchor="middle">{escape(PEER)}</text>',
        *(_bar(title, samples.ratio(figure, OURS, PEER), row) for row, (title, figure) in enumerate(BARS.items())),
        f'<line class="peer" x1="{peer}" y1="{TOP - 6}" x2="{peer}" y2="{height - 12}"/>',
        "</svg>",
    ]
    path.write_text("\n".join(lines) + "\n")


def _bar(title: str, ratio: float, row: int) -> str:
    top = TOP + STEP * row
    width = max(2.0, SCALE * min(ratio, MOST))
    shade = "bar" if ratio <= 1 else "slow"
    return (
        f'<text x="{LEFT - 10}" y="{top + 14}" text-anchor="end">{escape(title)}</text>'
        f'<rect class="{shade}" x="{LEFT}" y="{top}" width="{width:.0f}" height="{BAR}" rx="2"/>'
        f'<text x="{LEFT + width + 6:.0f}" y="{top + 14}">{ratio:.2f}</text>'
    )
