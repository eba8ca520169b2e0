"""One module a format of a picture or a graph."""
