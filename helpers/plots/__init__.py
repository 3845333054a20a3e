"""The workbook's figures: one style (``style``), one module for each notebook."""
