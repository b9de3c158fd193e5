"""A `Comparison` as one HTML file that needs no network; `parts/` holds its template, style and script."""
