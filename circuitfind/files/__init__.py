"""Files that may come from strangers: read within bounds, through a schema, without following links."""
