"""A terminal's screen as an SVG picture: letters stay letters, so that it can be searched and compared."""

import re
from html import escape

CELL, LINE, MARGIN = 8.4, 18, 14
PAPER, INK = "#14191f", "#d8dee6"
HUES = (
    "#3b4252", "#e06c75", "#8fbf6f", "#e5c07b", "#61a0e8", "#c586d8", "#56b6c2", "#d8dee6",
    "#6b7689", "#ff8b94", "#b1e08d", "#ffd98a", "#8cc0ff", "#e0a6f0", "#7fd8e4", "#ffffff",
)  # fmt: skip
PIECE = re.compile(r"\x1b\[([0-9;]*)m|\x1b[()]?[0-9A-Za-z]|([^\x1b]+)")


class Style:
    """What the escape sequences so far ask for."""

    def __init__(self):
        self.ink, self.paper, self.bold, self.faint, self.swapped = INK, "", False, False, False

    def apply(self, codes):
        codes = iter([int(code or 0) for code in codes.split(";")])
        for code in codes:
            if code == 0:
                self.__init__()
            elif code in (1, 2, 7):
                setattr(self, {1: "bold", 2: "faint", 7: "swapped"}[code], True)
            elif code == 22:
                self.bold = self.faint = False
            elif code == 27:
                self.swapped = False
            elif code in (38, 48):
                setattr(self, "ink" if code == 38 else "paper", _palette(codes))
            elif code in (39, 49):
                setattr(self, *(("ink", INK) if code == 39 else ("paper", "")))
            elif 30 <= code % 60 <= 37 and code < 100:
                self.ink = HUES[code % 60 - 30 + (8 if code >= 90 else 0)]
            elif 40 <= code % 60 <= 47:
                self.paper = HUES[code % 60 - 40 + (8 if code >= 100 else 0)]

    @property
    def colours(self):
        """(letters, what is behind them or "")."""
        return (self.paper or PAPER, self.ink) if self.swapped else (self.ink, self.paper)


def _palette(codes):
    if next(codes) == 2:
        return "#{:02x}{:02x}{:02x}".format(*(next(codes) for _ in range(3)))
    number = next(codes)
    if number < 16:
        return HUES[number]
    if number >= 232:
        return "#" + f"{8 + 10 * (number - 232):02x}" * 3
    steps = (0, 95, 135, 175, 215, 255)
    number -= 16
    return "#" + "".join(f"{steps[number // unit % 6]:02x}" for unit in (36, 6, 1))


def svg(text, title):
    """The picture of `text`, lines with the escape sequences of a terminal's colours."""
    lines = text.rstrip("\n").split("\n")
    style, columns, body = Style(), 0, []
    for number, line in enumerate(lines):
        column, top = 0, MARGIN + number * LINE
        for codes, letters in PIECE.findall(line):
            if not letters:
                style.apply(codes)
                continue
            x, width = MARGIN + column * CELL, len(letters) * CELL
            ink, paper = style.colours
            if paper:
                box = f'width="{width:.1f}" height="{LINE}" fill="{paper}"'
                body.append(f'<rect x="{x:.1f}" y="{top}" {box}/>')
            look = f' fill="{ink}"' if ink != INK else ""
            look += ' font-weight="bold"' if style.bold else ""
            look += ' opacity="0.6"' if style.faint else ""
            # Each word at its place and of its width, whatever letters the reader has.
            for word in re.finditer(r"\S+", letters):
                at, long = x + word.start() * CELL, len(word.group()) * CELL
                size = f'textLength="{long:.1f}" lengthAdjust="spacingAndGlyphs"'
                body.append(f'<text x="{at:.1f}" y="{top + 13}" {size}{look}>{escape(word.group())}</text>')
            column += len(letters)
        columns = max(columns, column)
    width, height = columns * CELL + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.1f} {height}" width="{width:.0f}"'
            f' font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14"'
            f' fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
            *body,
            "</svg>\n",
        ]
    )


def words(picture):
    """What a picture says, without what differs from run to run: its words, sorted."""
    letters = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture))
    return sorted(re.findall(r"[A-Za-z_:]{3,}", re.sub(r"&[a-z0-9#]+;", " ", letters)))
