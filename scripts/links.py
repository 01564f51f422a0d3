"""Links of a built book that lead nowhere: links.py FOLDER. Pages of other sites are not asked; those below api/ are not read,
since the programs that wrote them check their own, but may be linked to.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit


class Page(HTMLParser):
    """The links of a page, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes the links and the names of one element."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.names.add(value or "")


def main(folder: Path) -> int:
    """Prints the dead links of a book; 1 where there are any, or no book."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    api = (folder / "api").resolve()
    dead, n = [], 0
    for path, page in pages.items():
        if path.is_relative_to(api):
            continue
        for link in page.links:
            address, name = urldefrag(link)
            if urlsplit(address).scheme or address.startswith("//"):
                continue
            n += 1
            target = path if not address else (path.parent / unquote(urlsplit(address).path)).resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                dead.append(f"{path.relative_to(folder.resolve())}: {link}")
            elif name and target in pages and unquote(name) not in pages[target].names:
                dead.append(f"{path.relative_to(folder.resolve())}: {link} (no such heading)")
    # The page for addresses that are wrong, and the one that prints all chapters, repeat what stands elsewhere.
    dead = [line for line in dead if not line.startswith(("404.html", "print.html", "toc.html"))]
    print(f"{n} links of {len(pages)} pages, {len(dead)} dead", *dead, sep="\n  ")
    return 1 if dead or n == 0 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
