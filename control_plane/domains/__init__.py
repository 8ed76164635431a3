"""The control plane's domains; each folder has the same file roles.

`models` (tables), `schemas` (what travels over HTTP), `repository` (queries), `service` (rules and
transactions), `controller` (routes). A domain without tables has no `models` and `repository`.
"""
