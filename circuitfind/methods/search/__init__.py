"""Methods that test edges one after the other: ACDC and its schedules."""
