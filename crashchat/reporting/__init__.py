"""Several runs compared: rows, tables, pictures, clips, a page."""
