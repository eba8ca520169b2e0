"""What a circuit is measured by: metrics, their objectives, and log Z over large vocabularies."""
