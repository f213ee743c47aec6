"""One sweep as a page for a browser: read tolerantly, put into words, rendered, written. Nothing else is needed to read it."""
