"""Charts as SVG, by matplotlib: parts of a page, and files."""
