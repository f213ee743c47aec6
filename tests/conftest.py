"""What every tier shares; see CONTRIBUTING for the tiers."""

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.support.skips",
    "tests.support.figures",
    "tests.support.redis_server",
    "tests.support.fixtures",
    "tests.support.containers",
]

# An example that takes long on a busy machine is no failure: nothing here is a timed assertion.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Let tests interrupt what they start, also where this run is in a shell's background or under nohup."""
    # A child inherits what is ignored, and the default in place of a handler: one that does nothing keeps this run as it was.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
