"""The local stack: real Pulsar, PostgreSQL and control plane as child-free background processes.

`scripts/dev.py` is its command line, `Stack` its library for tests and chaos:

    stack = Stack(Path(".dds-test"))
    stack.up()
    stack.kill("pulsar")     # SIGKILL
    stack.start("pulsar")
    stack.down()

`bootstrap` and `console` use the standard library only, because they run before the virtual
environment exists. Everything else may use the project's dependencies. Nothing is imported here,
so that importing `scripts.devstack.bootstrap` stays possible on a bare Python.
"""
