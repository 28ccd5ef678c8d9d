"""Runnable configs; `vaebm fit --config NAME.yaml` finds them from any folder."""
