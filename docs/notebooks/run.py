"""Runs the notebooks of this folder and writes what they print and draw into them.

    pip install nbclient ipykernel; python docs/notebooks/run.py [NAME.ipynb ...]
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def executed(path):
    """The notebook with the outputs of this run; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True)
    return client.execute(cwd=str(FOLDER))


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb")):
        nbformat.write(executed(FOLDER / name), FOLDER / name)
