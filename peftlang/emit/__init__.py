"""Writing a method into a graph: what it means at a site, and the site's names as graph values."""
